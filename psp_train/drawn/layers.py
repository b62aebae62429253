"""The parts of a drawn face, from the hair behind the head to the glasses in front of it.

Each function paints one part on a canvas; `p` are the face's parameters by name (`PARAMETERS`).
"""

import numpy as np

from psp_train.drawn.canvas import (
    Canvas,
    Head,
    arch,
    bar,
    ellipse,
    gradient,
    intersection,
    mix,
    pencil,
    smoothstep,
    union,
)

SKIN = ((252, 226, 208), (243, 204, 176), (224, 174, 138), (192, 138, 102), (148, 100, 72), (104, 70, 54))
HAIR = ((44, 38, 44), (80, 54, 44), (126, 82, 54), (176, 88, 52), (224, 180, 110), (200, 200, 206))
EYES = ((92, 58, 38), (138, 106, 58), (86, 138, 92), (72, 128, 182), (122, 138, 154))
LIPS = ((206, 128, 116), (226, 104, 94), (198, 52, 64), (140, 46, 80))
CLOTH = ((50, 68, 108), (54, 122, 128), (106, 132, 88), (222, 172, 80), (202, 104, 78), (124, 72, 108))


def draw_layers(canvas: Canvas, head: Head, p: dict[str, float]):
    """Paint the whole face, back to front."""
    skin = gradient(SKIN, p["skin_tone"]) * (1 + p["skin_warmth"] * np.float32([0.0, 0.02, -0.07]))
    hair = gradient(HAIR, p["hair_colour"])
    draw_back_hair(canvas, head, p, hair)
    draw_body(canvas, head, p, skin)
    draw_head(canvas, head, p, skin)
    draw_glasses(canvas, head, p, "arms")
    draw_front_hair(canvas, head, p, hair)
    for side in (-1, 1):
        draw_brow(canvas, head, p, hair, side)
        draw_eye(canvas, head, p, side)
    draw_nose(canvas, head, p, skin)
    draw_mouth(canvas, head, p, skin)
    draw_glasses(canvas, head, p, "frame")


def _hair_outline(x, y, head: Head, p: dict[str, float], bottom: float):
    """Measure to the whole head of hair down to the height ``bottom``, as if there were no face in front of it."""
    width = head.outline + p["hair_volume"]
    # The skull reaches backwards, so a turned head shows more hair on the side it turns away from.
    x = x + 0.1 * head.sin
    top = -0.42 - 0.08 * abs(p["parting"]) - p["hair_volume"]
    crown = ellipse(x - 0.17 * p["parting"], y - top, 0.28, 0.18)
    skull = arch(x, y + 0.1, width, 0.54 + p["hair_volume"])
    return intersection(union(skull, crown, 0.1), y - bottom, 0.12)


def draw_back_hair(canvas: Canvas, head: Head, p: dict[str, float], hair):
    """Paint the hair behind the head."""
    bottom = 0.08 + 0.8 * p["hair_length"]

    def shape(x, y):
        return _hair_outline(x, y, head, p, bottom)

    canvas.paint((-1, -1, 1, 1), shape, hair * 0.8, "hair", ink=pencil(hair))


def draw_body(canvas: Canvas, head: Head, p: dict[str, float], skin):
    """Paint neck and clothes."""

    def neck(x, y):
        return arch(x, 0.74 - y, 0.22, 0.16)

    def cloth(x, y):
        # The neckline lies a little inside the skin, so that nothing shows through between the two.
        return intersection(ellipse(x, y - 1.32, 0.88, 0.66), -0.02 - neck(x, y), 0.02)

    canvas.paint((-0.26, 0.3, 0.26, 1), neck, skin * 0.86, "neck")
    canvas.paint((-1, 0.6, 1, 1), cloth, gradient(CLOTH, p["clothes_hue"]), "cloth")


def draw_head(canvas: Canvas, head: Head, p: dict[str, float], skin):
    """Paint ears, the skin of the face, and the blush of the cheeks."""
    tucked = 0.12 * float(smoothstep((p["hair_length"] - 0.3) / 0.25))  # under long hair
    for side, label in ((-1, "left ear"), (1, "right ear")):
        x0 = side * (head.outline - tucked) - 0.07 * head.sin
        y0 = 0.02 - 0.05 * head.nod
        canvas.oval(x0, y0, 0.065, 0.12, skin * 0.93, label=label)
        canvas.oval(x0, y0, 0.035, 0.075, skin * np.float32([0.84, 0.76, 0.74]), soft=0.03)

    def face(x, y):
        # The lower half tapers towards the chin, and the chin follows the nose when the head turns.
        low = np.clip(y / p["chin_length"], 0, 1.2) ** 2
        u = (x - 0.13 * head.sin * low) / (1 - (0.28 - 0.24 * p["jaw"]) * low) / head.outline
        v = np.where(y > 0, y / p["chin_length"], y / 0.6)
        u2, v2 = u * u, v * v
        square = 0.15 + 0.35 * p["jaw"]
        radius = (1 - square) * np.sqrt(u2 + v2) + square * np.sqrt(np.sqrt(u2 * u2 + v2 * v2))
        return (radius - 1) * (0.5 * head.outline + 0.5 * p["chin_length"])

    canvas.paint((-0.6, -0.7, 0.6, 0.75), lambda x, y: face(x, y - 0.05 - 0.1 * head.nod), skin, "skin")
    for side in (-1, 1):
        x0, y0, narrow = head.place(side * 0.23, 0.2)
        blush = skin * np.float32([1.0, 0.82, 0.8])
        strength = 0.5 * float(smoothstep(2 * narrow - 0.9))  # gone where the cheek turns away
        canvas.oval(x0, y0, 0.08, 0.08, blush, opacity=strength, soft=0.08)


def draw_front_hair(canvas: Canvas, head: Head, p: dict[str, float], hair):
    """Paint the fringe and the locks beside the face."""
    bottom = -0.12 + 0.9 * p["hair_length"]
    x0, y0 = 0.55 * head.depth * head.sin, 0.02 + 0.2 * head.nod
    fringe = p["fringe"] + 0.2 * head.nod

    def shape(x, y):
        # The opening widens downwards, so that the locks beside the face end in points.
        u, v = x - x0, y - y0 + 0.25 * p["parting"] * (x - x0)
        u = u / (1 + 0.8 * np.maximum(v - 0.1, 0))
        opening = arch(u, v, 0.94 * head.outline * head.cos, y0 - fringe)
        return intersection(_hair_outline(x, y, head, p, bottom), -opening, 0.08)

    canvas.paint((-1, -1, 1, 1), shape, hair, "hair", ink=pencil(hair))
    shine = mix(hair, np.float32([255, 240, 225]), 0.3)
    canvas.oval(0.16 * p["light"], 0.6 * fringe - 0.3, 0.2, 0.06, shine, opacity=0.5, soft=0.07)


def draw_brow(canvas: Canvas, head: Head, p: dict[str, float], hair, side: int):
    """Paint the brow of a side, -1 or 1."""
    x0, y0, narrow = head.place(side * p["eye_spacing"], -0.19)
    length = 0.085 * narrow
    tilt = side * p["brow_tilt"] / narrow

    def shape(x, y):
        x, y = x - x0, y - y0
        return bar(x, y + tilt * x - 0.025 * (x / length) ** 2, length, p["brow_thickness"])

    colour = mix(hair * 0.7, np.float32([70, 48, 40]), 0.4)
    label = "left brow" if side < 0 else "right brow"
    canvas.paint((x0 - 0.16, y0 - 0.12, x0 + 0.16, y0 + 0.12), shape, colour, label, ink=0.7)


def draw_eye(canvas: Canvas, head: Head, p: dict[str, float], side: int):
    """Paint the eye of a side, -1 or 1: lashes, white, iris, pupil and a highlight."""
    x0, y0, narrow = head.place(side * p["eye_spacing"], -0.04)
    rx, ry = p["eye_size"] * narrow, p["eye_size"] * 0.62
    box = (x0 - 0.16, y0 - 0.14, x0 + 0.16, y0 + 0.14)
    label = "left eye" if side < 0 else "right eye"
    iris = gradient(EYES, p["eye_colour"])

    def disc(radius, dx, dy):
        def shape(x, y):
            x, y = x - x0, y - y0
            return np.maximum(ellipse(x - dx, y - dy, radius * narrow, radius), ellipse(x, y, rx, ry))

        return shape

    r = 0.92 * ry
    canvas.oval(x0, y0 - 0.02, rx + 0.014, ry + 0.008, (62, 44, 42), label=label, ink=0.8)  # lashes
    canvas.oval(x0, y0, rx, ry, (250, 248, 246), label=label, line=0.5)
    canvas.paint(box, disc(r, 0.0, -0.12 * r), iris, label, ink=0.45)
    canvas.paint(box, disc(0.52 * r, 0.0, -0.12 * r), (30, 24, 28), label, ink=0.95)
    canvas.paint(box, disc(0.3 * r, -0.3 * r, -0.42 * r), (255, 255, 255), label, line=0.0)


def draw_nose(canvas: Canvas, head: Head, p: dict[str, float], skin):
    """Paint the nose and its shadow."""
    x_top, y_top, _ = head.place(0, -0.04)
    x_tip, y_tip, _ = head.place(0, -0.02 + p["nose_length"], lift=0.09)
    width = p["nose_width"] * (0.6 + 0.4 * head.cos)

    def nose(x, y):
        # Width and sideways position both run from the bridge (t = 0) to the tip (t = 1).
        t = np.clip((y - y_top) / (y_tip - y_top), 0, 1)
        x = x - x_top - (x_tip - x_top) * t
        bridge = bar(y - (y_top + y_tip) / 2, x, (y_tip - y_top) / 2, 0.03 + 0.01 * t)
        tip = ellipse(x, y - y_tip, width, 0.058)
        return union(bridge, tip, 0.06)

    box = (x_tip - 0.3, y_top - 0.1, x_tip + 0.3, y_tip + 0.15)
    shift = -0.012 * p["light"]
    shadow = skin * np.float32([0.8, 0.7, 0.68])
    canvas.paint(box, lambda x, y: nose(x - shift, y - 0.016), shadow, soft=0.022)
    canvas.paint(box, nose, skin * np.float32([1.03, 1.01, 1.0]), "nose", line=0.5, soft=0.02)


def draw_mouth(canvas: Canvas, head: Head, p: dict[str, float], skin):
    """Paint lips, the open mouth, and teeth where it is open enough."""
    x0, y0, narrow = head.place(0, 0.39, lift=-0.06)
    width, gape = p["mouth_width"] * narrow, 0.014 + 0.06 * p["mouth_open"] ** 2
    lip = mix(skin * 0.86, gradient(LIPS, p["lip_colour"]), 0.65)

    def bent(x, y):
        """Return coordinates in which the mouth is straight: a smile lifts its corners."""
        u = np.minimum(np.abs(x - x0) / width, 1.2)
        return x - x0, y - y0 + p["mouth_curve"] * p["mouth_width"] * (u * u - 0.4)

    def inside(x, y):
        return ellipse(*bent(x, y), width * 0.86, gape)

    def upper(x, y):
        return np.maximum(ellipse(*bent(x, y), width, gape + 0.03), bent(x, y)[1])

    def lower(x, y):
        return np.maximum(ellipse(*bent(x, y), width, gape + 0.042), -bent(x, y)[1])

    def teeth(x, y):
        return np.maximum(inside(x, y) + 0.018, bent(x, y)[1] + 0.1 * gape)

    box = (x0 - 0.26, y0 - 0.22, x0 + 0.26, y0 + 0.22)
    canvas.paint(box, lower, lip * 1.06, "lower lip", line=0.5)
    canvas.paint(box, upper, lip * 0.92, "upper lip", line=0.5)
    canvas.paint(box, inside, lip * 0.2 + np.float32([50, 12, 18]), "mouth", ink=0.8)
    shown = float(smoothstep((p["mouth_open"] - 0.2) / 0.3))
    canvas.paint(box, teeth, (248, 244, 240), "mouth", line=0.0, opacity=shown)


def draw_glasses(canvas: Canvas, head: Head, p: dict[str, float], part: str):
    """Paint the "arms" (they disappear under the hair) or the "frame" (in front of everything)."""
    worn = float(smoothstep((p["glasses"] - 0.62) / 0.06))
    lenses = [head.place(side * p["eye_spacing"] * 1.03, -0.03, lift=0.03) for side in (-1, 1)]
    (left, height, left_narrow), (right, _, right_narrow) = lenses
    left_rim, right_rim = 0.145 * left_narrow, 0.145 * right_narrow

    def strut(x, y, start, end):
        return bar(x - (start + end) / 2, y - height + 0.03, abs(end - start) / 2, 0.014)

    def arms(x, y):
        hinges = [head.place(side * 0.98 * head.width, 0)[0] for side in (-1, 1)]
        return np.minimum(strut(x, y, hinges[0], left - left_rim), strut(x, y, right + right_rim, hinges[1]))

    def frame(x, y):
        rims = np.minimum(
            np.abs(ellipse(x - left, y - height, left_rim, 0.13)),
            np.abs(ellipse(x - right, y - height, right_rim, 0.13)),
        )
        return np.minimum(rims - 0.015, strut(x, y, left + left_rim, right - right_rim))

    if worn > 0:
        shape = arms if part == "arms" else frame
        canvas.paint((-0.6, -0.3, 0.6, 0.2), shape, (52, 46, 58), "glasses", opacity=worn, line=0.0, ink=0.9)
