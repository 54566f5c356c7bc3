"""Pictures of a data set for people: a contact sheet of annotated images, plots of the boxes, one HTML page of both."""
