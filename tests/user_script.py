"""What a program of somebody's own looks like: an image in; segments, names and features out. Tests run and type-check it."""

from emerdiff_lib import EmerDiffPipeline, load_output, name_image, save_output

pipe = EmerDiffPipeline.from_pretrained("toyscapes")
output = pipe("photo.jpg", num_masks=6, mode="pixel")
save_output(output, "photo.jpg", "result")

named = name_image(pipe, "photo.jpg", ["road", "sky", "house"])
for index, name in enumerate(named.names):
    print(f"{name}: {(named.labels == index).mean():.0%} of the image")

responses = pipe.probe(pipe.cluster("photo.jpg", mode="pixel"))
features = responses.features()
both = pipe(["photo.jpg", "photo.jpg"], num_masks=4, mode="fast")
assert (load_output("result").labels == output.labels).all()
assert features.shape[:2] == responses.segments(6).shape == both[1].labels.shape == named.labels.shape
