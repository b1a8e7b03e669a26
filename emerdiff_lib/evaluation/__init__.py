"""Labels and embeddings in, numbers out: no model, pipeline, baseline or data set is known here.

``regions`` has known pixels, boundaries, objects and cells of a label map;
``metrics`` compares two label maps, ``protocols`` gives segments their classes, ``intervals`` says what differences are worth,
and ``tables`` puts a whole data set together.
"""
