// Detect objects in a Bitmap on Android, with MediaPipe Tasks.
//
// 1. In app/build.gradle.kts:  dependencies { implementation("com.google.mediapipe:tasks-vision:latest.release") }
// 2. Put the file of `effdet export --format tflite` into app/src/main/assets/model.tflite.
//
// This file has not been compiled by this project.
package org.example.detect

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.objectdetector.ObjectDetector

class DetectObjects(context: Context, scoreThreshold: Float = 0.3f) : AutoCloseable {
    private val detector = ObjectDetector.createFromOptions(
        context,
        ObjectDetector.ObjectDetectorOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setRunningMode(RunningMode.IMAGE)
            .setScoreThreshold(scoreThreshold)
            .setMaxResults(100)
            .build(),
    )

    /** Returns name, score and box, in pixels of the bitmap, of every object. */
    fun detect(bitmap: Bitmap) = detector.detect(BitmapImageBuilder(bitmap).build()).detections().flatMap { found ->
        found.categories().map { Triple(it.categoryName(), it.score(), found.boundingBox()) }
    }

    override fun close() = detector.close()
}
