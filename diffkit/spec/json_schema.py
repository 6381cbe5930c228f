"""JSON schema of a recipe, for the completion and checks of an editor's TOML plug-in."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from diffkit.spec.docs import setting_docs
from diffkit.spec.spec import Spec


def json_schema(spec: type[Spec]) -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a table, with the kinds registered now."""
    return spec.model_json_schema(schema_generator=_RecipeSchema)


class _RecipeSchema(GenerateJsonSchema):
    """Writes each family as the union of its kinds, with a bare name as a short form."""

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        family = (schema.get("metadata") or {}).get("family")
        if family is None:
            return super().generate_inner(schema)
        name, pointer = self.get_cache_defs_ref_schema(f"{family.__module__}.{family.__qualname__}:family")  # type: ignore[arg-type]
        if name not in self.definitions:
            self.definitions[name] = {}  # a kind may hold its own family
            choices = {
                kind: {**cls.__pydantic_core_schema__, "ref": f"{cls.__module__}.{cls.__qualname__}:kind"}
                for kind, cls in sorted(family.kinds.items())
            }
            tables = self.tagged_union_schema(core_schema.tagged_union_schema(choices, "kind"))  # type: ignore[arg-type]
            bare = [kind for kind, cls in sorted(family.kinds.items()) if _needs_no_settings(cls)]
            number = [{"type": "number"}] if family.number_means else []
            self.definitions[name] = {"anyOf": [{"enum": bare, "type": "string"}, *number, tables]}
        return pointer

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        table = super().model_schema(schema)
        for name, doc in setting_docs(schema["cls"]).items():
            table["properties"][name]["description"] = doc
        return table

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        document = super().generate(schema, mode)
        document["$schema"] = self.schema_dialect
        for table in document.get("$defs", {}).values():
            if "const" in table.get("properties", {}).get("kind", {}):
                table["required"] = ["kind", *table.get("required", [])]
        return document


def _needs_no_settings(kind: type[Spec]) -> bool:
    return not any(field.is_required() for field in kind.model_fields.values())
