from effdet.data.findings import MAX_LETTERS, Finding, FindingList


def test_a_finding_names_the_first_places_and_how_many_there_are():
    finding = Finding("warning", "files are odd", "look at them", 5, ("a", "b", "c"))
    assert str(finding) == "files are odd: 5 (a, b, c, …); look at them"


def test_names_of_any_length_do_not_fill_a_message():
    findings = FindingList()
    findings.add("error", "results have no box", f"result 1 of {'x' * 3000}.jpg")
    (finding,) = findings.as_tuple()
    assert len(str(finding)) < MAX_LETTERS + 50
    assert str(finding).startswith("results have no box: 1 (result 1 of xxx")
    assert "xxx.jpg)" in str(finding)
