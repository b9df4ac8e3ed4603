"""The rules of the house, as functions from a House to a list of violations, each a line or block that says where."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from tests.tools.graph import House, Import, parents

Layers = Sequence[Collection[str]]


def room(module: str, rooms: Collection[str]) -> str | None:
    """The room a module lies in: the longest of the dotted names in `rooms` that it begins with, without the package's."""
    parts = module.split(".")[1:]
    candidates = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in candidates if name in rooms), None)


def ranks(layers: Layers) -> dict[str, int]:
    """Each room's place, from the lowest layer to the highest."""
    return {name: rank for rank, layer in enumerate(layers) for name in layer}


def unplaced(house: House, layers: Layers) -> list[str]:
    """Files in no room. The package's own `__init__.py` needs none, nor does one that holds only a docstring."""
    rank = ranks(layers)
    return [
        f"{house.file(module)} is in no room: give {module.partition('.')[2]} (or a package around it) a place in LAYERS"
        for module in house.modules
        if module != house.package
        and room(module, rank) is None
        and not (house.is_package(module) and not house.has_content(module))
    ]


def absent_rooms(house: House, layers: Layers) -> list[str]:
    """Rooms that are listed, but have no file or folder."""
    return [f"{name} is in LAYERS, but not in the package" for name in ranks(layers) if not _exists(house, name)]


def _exists(house: House, name: str) -> bool:
    path = house.root / house.package / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def upward_arrows(house: House, layers: Layers) -> list[str]:
    """Imports, in functions too, that lead to a higher layer."""
    rank = ranks(layers)
    wrong = []
    for arrow in house.arrows:
        source, target = room(arrow.importer, rank), room(arrow.imported, rank)
        if source and target and not arrow.for_types and rank[target] > rank[source]:
            wrong.append(
                f"{house.file(arrow.importer)}:{arrow.line} imports {arrow.imported}: {target} is above {source} in LAYERS"
            )
    return wrong


def heavy_at_top(
    house: House, light: Collection[str], heavy: Collection[str], allowed: Mapping[str, Collection[str]]
) -> list[str]:
    """Imports of heavy libraries at the top of files of light rooms, or of the package's own `__init__.py`."""
    wrong = []
    for each in house.imports:
        where = room(each.importer, light)
        library = each.module.split(".")[0]
        is_light = where is not None or each.importer == house.package
        is_early = each.at_top and not each.for_types
        if is_light and is_early and library in heavy and library not in allowed.get(where or "", ()):
            wrong.append(f"{_place(house, each)} imports {library} at its top: import it where it is used")
    return wrong


def imports_of_library(house: House, entry: str, library: str) -> list[str]:
    """Imports of a library, in functions too, in any file that importing `entry` loads; with the way there."""
    if entry not in house.modules:
        return [f"{entry} is not there, so nothing of it can be checked"]
    loads: dict[str, list[str]] = defaultdict(list)
    for arrow in house.arrows:
        if arrow.at_top and not arrow.for_types:
            loads[arrow.importer].append(arrow.imported)
    ways = {entry: [entry]}
    todo = [entry]
    while todo:
        module = todo.pop(0)
        for target in [*loads[module], *(parent for parent in parents(module) if parent in house.modules)]:
            if target not in ways:
                ways[target] = [*ways[module], target]
                todo.append(target)
    return [
        f"{_place(house, each)} imports {library}, and is loaded by {' -> '.join(ways[each.importer])}"
        for each in house.imports
        if each.importer in ways and not each.for_types and each.module.split(".")[0] == library
    ]


def _place(house: House, each: Import) -> str:
    return f"{house.file(each.importer)}:{each.line}"


def crowded_folders(house: House, most: int, exempt: Collection[str] = ()) -> list[str]:
    """Folders with more Python files than a reader can survey; `__init__.py` is not counted."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in house.modules.values():
        if path.name != "__init__.py" and path.is_relative_to(house.root / house.package):
            files[str(path.parent.relative_to(house.root / house.package))].append(path.stem)
    return [
        f"{house.package}/{'' if folder == '.' else folder + '/'} has {len(names)} files, at most {most} are allowed: "
        + ", ".join(sorted(names))
        for folder, names in sorted(files.items())
        if len(names) > most and folder not in exempt
    ]


def public_names(house: House) -> list[str]:
    """What the package's `__all__` lists."""
    for node in house.trees[house.package].body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "__all__" for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def hidden_names(house: House) -> list[str]:
    """Public names that a module or subpackage has as well: importing that would put it in the place of the function."""
    return [
        f"{name} is in {house.package}.__all__, but {house.file(f'{house.package}.{name}')} has the same name"
        for name in public_names(house)
        if f"{house.package}.{name}" in house.modules
    ]
