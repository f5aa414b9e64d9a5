"""The reference page of all options, derived from the schema: docs/configuration.md."""

from __future__ import annotations

from nmtasync.config.load import describe_range
from nmtasync.config.schema import OPTIONS, SECTIONS

_INTRODUCTION = """# Configuration

Made of the schema by `make docs`; do not edit.

Options come from RUN/config.toml (what was used last), then `--config FILE.toml`, then
`--set section.key=value`, then flags; the last one wins. `none` turns an option off. An unknown
key is an error, and so is an option that has no effect beside the others.
`nmtasync train RUN --dump-config` prints what holds for RUN.
"""


def reference_page() -> str:
    """Write the page in Markdown."""
    lines = [_INTRODUCTION]
    for section, section_type in SECTIONS.items():
        lines += [f"## [{section}]", "", section_type.__doc__ or "", ""]
        lines += ["| key | default | meaning | flag of |", "| --- | --- | --- | --- |"]
        for field in (f for f in OPTIONS.values() if f.section == section):
            default = "none" if field.default is None else str(field.default)
            meaning = f"{field.about.help} {describe_range(field)}".strip()
            flags = ", ".join(field.about.stages)
            lines.append(f"| `{field.key}` | `{default}` | {meaning} | {flags} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(reference_page(), end="")
