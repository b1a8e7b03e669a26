"""Class names of the official data sets in the order of their indices, and how COCO-Stuff groups its classes."""

# SceneParsing benchmark, objectInfo150.txt; label 0 is "other"
ADE20K = tuple(
    (
        "wall|building|sky|floor|tree|ceiling|road|bed|windowpane|grass|cabinet|sidewalk|person|earth|door|table|"
        "mountain|plant|curtain|chair|car|water|painting|sofa|shelf|house|sea|mirror|rug|field|armchair|seat|fence|"
        "desk|rock|wardrobe|lamp|bathtub|railing|cushion|base|box|column|signboard|chest of drawers|counter|sand|"
        "sink|skyscraper|fireplace|refrigerator|grandstand|path|stairs|runway|case|pool table|pillow|screen door|"
        "stairway|river|bridge|bookcase|blind|coffee table|toilet|flower|book|hill|bench|countertop|stove|palm|"
        "kitchen island|computer|swivel chair|boat|bar|arcade machine|hovel|bus|towel|light|truck|tower|chandelier|"
        "awning|streetlight|booth|television|airplane|dirt track|apparel|pole|land|bannister|escalator|ottoman|"
        "bottle|buffet|poster|stage|van|ship|fountain|conveyer belt|canopy|washer|plaything|swimming pool|stool|"
        "barrel|basket|waterfall|tent|bag|minibike|cradle|oven|ball|food|step|tank|trade name|microwave|pot|animal|"
        "bicycle|lake|dishwasher|screen|blanket|sculpture|hood|sconce|vase|traffic light|tray|ashcan|fan|pier|"
        "crt screen|plate|monitor|bulletin board|shower|radiator|glass|clock|flag"
    ).split("|")
)

# cocostuff labels.txt, ids 1 to 182; a pixel of id i is stored as i − 1, unlabelled ones as 255
COCO_STUFF_IDS = tuple(
    (
        "person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|street sign|"
        "stop sign|parking meter|bench|bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe|hat|backpack|"
        "umbrella|shoe|eye glasses|handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat|"
        "baseball glove|skateboard|surfboard|tennis racket|bottle|plate|wine glass|cup|fork|knife|spoon|bowl|banana|"
        "apple|sandwich|orange|broccoli|carrot|hot dog|pizza|donut|cake|chair|couch|potted plant|bed|mirror|"
        "dining table|window|desk|toilet|door|tv|laptop|mouse|remote|keyboard|cell phone|microwave|oven|toaster|sink|"
        "refrigerator|blender|book|clock|vase|scissors|teddy bear|hair drier|toothbrush|hair brush|banner|blanket|"
        "branch|bridge|building-other|bush|cabinet|cage|cardboard|carpet|ceiling-other|ceiling-tile|cloth|clothes|"
        "clouds|counter|cupboard|curtain|desk-stuff|dirt|door-stuff|fence|floor-marble|floor-other|floor-stone|"
        "floor-tile|floor-wood|flower|fog|food-other|fruit|furniture-other|grass|gravel|ground-other|hill|house|"
        "leaves|light|mat|metal|mirror-stuff|moss|mountain|mud|napkin|net|paper|pavement|pillow|plant-other|plastic|"
        "platform|playingfield|railing|railroad|river|road|rock|roof|rug|salad|sand|sea|shelf|sky-other|skyscraper|"
        "snow|solid-other|stairs|stone|straw|structural-other|table|tent|textile-other|towel|tree|vegetable|"
        "wall-brick|wall-concrete|wall-other|wall-panel|wall-stone|wall-tile|wall-wood|water-other|waterdrops|"
        "window-blind|window-other|wood"
    ).split("|")
)

# Ids that were never annotated
COCO_STUFF_UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)

# 12 groups of things, 15 of stuff, in the order of IIC, PiCIE and STEGO
COCO_STUFF_COARSE = tuple(
    (
        "electronic|appliance|food|furniture|indoor|kitchen|accessory|animal|outdoor|person|sports|vehicle|ceiling|"
        "floor|food (stuff)|furniture (stuff)|raw material|textile|wall|window|building|ground|plant|sky|solid|"
        "structural|water"
    ).split("|")
)

# Group of every stored pixel value 0 to 181
COCO_STUFF_GROUP = tuple(
    int(group)
    for group in (
        "9 11 11 11 11 11 11 11 11 8 8 8 8 8 8 7 7 7 7 7 7 7 7 7 7 6 6 6 6 6 6 6 6 10 10 10 10 10 10 10 10 10 "
        "10 5 5 5 5 5 5 5 5 2 2 2 2 2 2 2 2 2 2 3 3 3 3 3 3 3 3 3 3 0 0 0 0 0 0 1 1 1 1 1 1 4 4 4 4 4 4 4 4 "
        "17 17 22 20 20 22 15 25 16 13 12 12 17 17 23 15 15 17 15 21 15 25 13 13 13 13 13 22 26 14 14 15 22 "
        "21 21 24 20 22 15 17 16 15 22 24 21 17 25 16 21 17 22 16 21 21 25 21 26 21 24 20 17 14 21 26 15 23 "
        "20 21 24 15 24 22 25 15 20 17 17 22 14 18 18 18 18 18 18 18 26 26 19 19 24 "
    ).split()
)

# The 59 most frequent classes in alphabetical order, mmsegmentation's; labels 1 to 59, 0 is background
PASCAL_CONTEXT = tuple(
    (
        "aeroplane|bag|bed|bedclothes|bench|bicycle|bird|boat|book|bottle|building|bus|cabinet|car|cat|ceiling|chair|"
        "cloth|computer|cow|cup|curtain|dog|door|fence|floor|flower|food|grass|ground|horse|keyboard|light|motorbike|"
        "mountain|mouse|person|plate|platform|pottedplant|road|rock|sheep|shelves|sidewalk|sign|sky|snow|sofa|table|"
        "track|train|tree|truck|tvmonitor|wall|water|window|wood"
    ).split("|")
)

# The same in the order of the authors' 59_labels.txt, which FCN and what follows it use: VOC's 20 objects come first
PASCAL_CONTEXT_VOC_FIRST = tuple(
    (
        "aeroplane|bicycle|bird|boat|bottle|bus|car|cat|chair|cow|table|dog|horse|motorbike|person|pottedplant|sheep|"
        "sofa|train|tvmonitor|bag|bed|bench|book|building|cabinet|ceiling|cloth|computer|cup|door|fence|floor|flower|"
        "food|grass|ground|keyboard|light|mountain|mouse|curtain|platform|sign|plate|road|rock|shelves|sidewalk|sky|"
        "snow|bedclothes|track|tree|truck|wall|water|window|wood"
    ).split("|")
)

# The 19 evaluated classes in the order of their train ids
CITYSCAPES = tuple(
    (
        "road|sidewalk|building|wall|fence|pole|traffic light|traffic sign|vegetation|terrain|sky|person|rider|car|"
        "truck|bus|train|motorcycle|bicycle"
    ).split("|")
)

# Label ids of the 19 classes in *_gtFine_labelIds.png
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

# Labels 0 to 10 of the SegNet tutorial; 11 is void
CAMVID = tuple(("sky|building|pole|road|pavement|tree|sign|fence|car|pedestrian|bicyclist").split("|"))

# Their colours
CAMVID_PALETTE = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"
