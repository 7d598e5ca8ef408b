"""One image's way from bytes to faces, as the routes need it: plain functions for the inference pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recognition import registry
from recognition.errors import (
    ImageTooLarge,
    NoFace,
    RecognitionError,
    UndecodableImage,
    UnknownName,
)
from recognition.images import ImageLimits
from recognition.pipeline import Face, Recipe, Recognizer, Selection, Sight
from recognition.quality import quality
from recognition.registry import Models
from recognition.spec import ACTIONS, Action
from recognition.types import Align, Attributes, Authenticity, Box, Detection, Rgb
from service.errors import UnsupportedOption
from service.images import Pixels, content
from service.schemas import Options
from service.settings import ServiceSettings

NO_FACE = "no face was found in {name}; enforce_detection=false takes the whole image as one"
NOBODY_TO_JUDGE = "no face was found in {name}, so anti_spoofing has none to judge"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done with an image: everything that the request and the settings say of it."""

    recipe: Recipe
    selection: Selection
    enforce: bool
    anti_spoofing: bool
    limits: ImageLimits


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """An image's size and its faces, largest first."""

    width: int
    height: int
    faces: tuple[Face, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """An image's size and its faces, largest first, without embeddings."""

    width: int
    height: int
    faces: tuple[Detection, ...]
    qualities: tuple[float, ...]
    attributes: tuple[Attributes, ...]
    authenticity: tuple[Authenticity, ...] | None
    """None where it was not asked for."""


def plan(
    options: Options, settings: ServiceSettings, models: Models, base: Recipe | None = None
) -> Plan:
    """Raises UnknownName, UnsupportedOption, ModelUnavailable. With `base` only the detector can be chosen."""
    recipe = _recipe(options, settings, models, base)
    known = models.installed(recipe.model).normalizations
    if recipe.normalization not in (known if recipe.align == "deepface" else ("base",)):
        raise UnsupportedOption(
            f"normalization {recipe.normalization!r} is of no use to {recipe.model} aligned as "
            f"{recipe.align!r}; known with align=deepface: {', '.join(known)}, otherwise: base"
        )
    limit = settings.max_faces_per_probe
    return Plan(
        recipe=recipe,
        selection=Selection(min(options.max_faces or limit, limit), options.expand_percentage),
        enforce=options.enforce_detection,
        anti_spoofing=options.anti_spoofing,
        limits=ImageLimits(settings.max_image_bytes, settings.max_image_pixels),
    )


def _recipe(
    options: Options, settings: ServiceSettings, models: Models, base: Recipe | None
) -> Recipe:
    detector = known_detector(options.detector_backend)
    if base is None:
        asked_for = options.model_name
        spec = models.installed(settings.model) if asked_for is None else models.named(asked_for)
        usual = Recipe.usual(spec, detector or settings.detector)
        align = _aligned(options.align, usual, models)
        return replace(usual, align=align, normalization=options.normalization)
    asked = options.model_fields_set
    if "align" in asked and _aligned(options.align, base, models) != base.align:
        raise UnsupportedOption(
            f"the gallery's faces are aligned as {base.align!r}; leave align out to search it"
        )
    if "normalization" in asked and options.normalization != base.normalization:
        raise UnsupportedOption(
            f"the gallery's normalization is {base.normalization!r}; leave it out to search it"
        )
    return replace(base, detector=detector or base.detector)


def _aligned(align: bool | Align, recipe: Recipe, models: Models) -> Align:
    """`True` is the recipe's own alignment, or its model's if that is none."""
    if align is False:
        return "none"
    if align is True:
        own = models.installed(recipe.model).default_align
        return own if recipe.align == "none" else recipe.align
    return align


def known_model(models: Models, name: str | None) -> str | None:
    """The registry's spelling; raises UnknownName, ModelUnavailable."""
    return None if name is None else models.named(name).name


def known_detector(name: str | None) -> str | None:
    """The registry's spelling; raises UnknownName."""
    return _known("detector", name, tuple(registry.DETECTORS))


def known_actions(names: Sequence[str] | None, usual: tuple[Action, ...]) -> tuple[Action, ...]:
    """In our spelling, each once; the usual ones for None. Raises UnknownName."""
    if names is None:
        return usual
    found = [_known("attribute", name, ACTIONS) for name in names]
    return tuple(action for action in dict.fromkeys(found) if action in ACTIONS)


def _known(kind: str, name: str | None, names: tuple[str, ...]) -> str | None:
    if name is None:
        return None
    for known in names:
        if known.casefold() == name.strip().casefold():
            return known
    raise UnknownName(kind, name, names)


def pixels(recognizer: Recognizer, image: Pixels, plan: Plan, name: str) -> Rgb:
    """Raises UndecodableImage, ImageTooLarge, with the field's name."""
    try:
        return recognizer.decode(content(image, plan.limits.max_bytes), plan.limits)
    except (UndecodableImage, ImageTooLarge) as error:
        raise _named(error, name) from error


def represent(recognizer: Recognizer, image: Pixels, plan: Plan, name: str) -> Seen:
    """Faces with embeddings; at least one. Raises NoFace, SpoofDetected and what `pixels` raises."""
    sight = _sight(recognizer, image, plan, name)
    rgb = sight.picture.pixels
    faces = sight.faces or (_whole(rgb, plan, name),)
    if plan.anti_spoofing:
        recognizer.refuse_spoofs(rgb, faces, plan.recipe.detector, name)
    described = recognizer.describe_seen(replace(sight, faces=faces), plan.recipe)
    return Seen(sight.picture.width, sight.picture.height, described)


def represent_all(recognizer: Recognizer, images: Mapping[str, Pixels], plan: Plan) -> list[Seen]:
    """The same for several images by their names, beside each other if a core is idle; raises for the first of them."""
    return recognizer.resources.idle.each(
        lambda named: represent(recognizer, named[1], plan, named[0]), list(images.items())
    )


def _sight(recognizer: Recognizer, image: Pixels, plan: Plan, name: str) -> Sight:
    """What `represent` looks at; whether a face is live shows in all pixels only."""
    try:
        data = content(image, plan.limits.max_bytes)
        return recognizer.see(
            data, plan.limits, plan.recipe, plan.selection, whole=plan.anti_spoofing
        )
    except (UndecodableImage, ImageTooLarge) as error:
        raise _named(error, name) from error


def extract(recognizer: Recognizer, image: Pixels, plan: Plan) -> Detected:
    """Faces, and whether they look live if that is asked for; at least one. Raises NoFace and as `pixels`."""
    rgb = pixels(recognizer, image, plan, "img")
    faces = _faces(recognizer, rgb, plan, "img")
    found = None
    if plan.anti_spoofing:
        (found,) = recognizer.judge([rgb], [faces], plan.recipe.detector)
    return _detected(rgb, faces, authenticity=found)


def analyze(
    recognizer: Recognizer, image: Pixels, plan: Plan, actions: Sequence[Action]
) -> Detected:
    """Faces with attributes; at least one. Raises NoFace, SpoofDetected and as `pixels`."""
    rgb = pixels(recognizer, image, plan, "img")
    faces = _faces(recognizer, rgb, plan, "img")
    if plan.anti_spoofing:
        recognizer.refuse_spoofs(rgb, faces, plan.recipe.detector, "img")
    return _detected(rgb, faces, attributes=recognizer.analyze(rgb, faces, actions))


def _faces(recognizer: Recognizer, image: Rgb, plan: Plan, name: str) -> tuple[Detection, ...]:
    (faces,) = recognizer.detect([image], plan.recipe.detector, plan.selection)
    return faces or (_whole(image, plan, name),)


def _detected(
    image: Rgb,
    faces: tuple[Detection, ...],
    *,
    attributes: Sequence[Attributes] = (),
    authenticity: tuple[Authenticity, ...] | None = None,
) -> Detected:
    qualities = tuple(quality(image, face) for face in faces)
    height, width = image.shape[:2]
    return Detected(width, height, faces, qualities, tuple(attributes), authenticity)


def _whole(image: Rgb, plan: Plan, name: str) -> Detection:
    if plan.anti_spoofing:
        raise NoFace(NOBODY_TO_JUDGE.format(name=name))
    if plan.enforce:
        raise NoFace(NO_FACE.format(name=name))
    height, width = image.shape[:2]
    return Detection(Box(0.0, 0.0, float(width), float(height)), 0.0)


def _named(error: RecognitionError, name: str) -> RecognitionError:
    return type(error)(f"{name}: {error}")
