"""The frozen, strict table that all of a recipe is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from diffkit.errors import Problem, did_you_mean


class Spec(BaseModel):
    """A frozen, strict table of a recipe.

    Strict means: no unknown keys and no coercion. An integer may stand for a float; text or a boolean may
    not stand for a number. Defaults are validated like what a user writes.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _explain_unknown_settings(cls, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            found = error.errors()
            lines = [cls._line(details) for details in found if not _follows_from_others(details, found)]
            raise ValidationError.from_exception_data(error.title, lines) from None

    @classmethod
    def _line(cls, details: Any) -> InitErrorDetails:
        """Keep an error's place and text, and say more where a setting's name is unknown.

        The text goes in as a context value: a custom error's template would read braces in it as places to fill.
        """
        kind, text, context = details["type"], details["msg"], details.get("ctx", {})
        if kind == "too_short" and "min_length" in context:
            text = f"should have at least {context['min_length']} items"
        if kind == "too_long" and "max_length" in context:
            text = f"should have at most {context['max_length']} items"
        if kind == "extra_forbidden" and len(details["loc"]) == 1:
            name = str(details["loc"][0])
            kind = "unknown_setting"
            text = f"unknown setting.{did_you_mean(name, cls.model_fields)} Allowed here: {', '.join(cls.model_fields)}"
        error = PydanticCustomError(kind, "{text}", {"text": text})
        return InitErrorDetails(type=error, loc=details["loc"], input=details["input"])


def _follows_from_others(details: Any, all_details: list[Any]) -> bool:
    """Return whether an array is only called too short because wrong items of it were not counted."""
    place = details["loc"]
    return details["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in all_details
    )


def problems_of(error: ValidationError) -> list[Problem]:
    """Turn pydantic's error into the problems that a user sees."""
    return [_problem(details) for details in error.errors(include_url=False)]


def _problem(details: Any) -> Problem:
    kind, value = details["type"], details["input"]
    if kind == "missing" or isinstance(value, dict | list | tuple | BaseModel):
        value = Problem.MISSING
    message = (
        details["msg"]
        .removeprefix("Value error, ")
        .removeprefix("Input ")
        .removeprefix("String ")
        .replace("Tuple", "array")
        .replace("tuple", "array")
    )
    message = _IN_WORDS_OF_TOML.get(kind, message)
    return Problem(key=dotted(details["loc"]), message=message, value=value)


_IN_WORDS_OF_TOML = {
    "missing": "this setting is required",
    "model_type": "should be a table",
    "tuple_type": "should be an array, such as [1, 2]",
    "bool_type": "should be true or false",
    "string_type": "should be text, in quotes",
}


def dotted(place: tuple[str | int, ...]) -> str:
    """Write a place as in a recipe: ``model.levels[1].resnet``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
