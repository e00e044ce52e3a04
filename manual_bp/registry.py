"""The registry: every rule by its name, those of this distribution and those that others add.

Another distribution adds pages by an entry point of the group `manual_bp.rules`, whose value is a package of pages:

    [project.entry-points."manual_bp.rules"]
    mine = "my_package.rules"

A page is a module of that package, or of a folder in it (its chapter); a name with an underscore is a helper.  torch's
twin of it is the function `<name>` of the module `_twins.<name>` in that package, or else `torch.nn.functional.<name>`.

A page whose name ends in its chapter's, such as adamw_update of the chapter update, is found without that ending too:
RULES["adamw"] is RULES["adamw_update"].

A page that belongs to no package has the path of its file for a name: RULES["my_folder/gelu_squared.py"].
"""

from __future__ import annotations

import difflib
import importlib
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from manual_bp.loading import file_as_module
from manual_bp.rule import Rule

GROUP = "manual_bp.rules"
PAGES = ("[!_]*/[!_]*.py", "[!_]*.py")
"""Where pages lie in a package: in chapters, or in the package itself.  `_names` are helpers."""


class UnknownRuleError(KeyError, ValueError):
    """No page has that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Rules(Mapping[str, Rule]):
    """Every page of a package, by name, and every page of the packages that others have registered.

    A page is imported when it is first asked for.  The path of a file means the page in it, which is no member.
    """

    def __init__(self, package: str, folder: Path, group: str = GROUP) -> None:
        self._package = package
        self._folder = folder
        self._group = group
        self._loaded: dict[str, Rule] = {}

    @cached_property
    def _modules(self) -> dict[str, str]:
        """Module name of each page, in the order of chapter and name; those of others come last."""
        modules: dict[str, str] = {}
        for name, module in _pages(self._package, self._folder):
            if name in modules:
                raise ImportError(f"a rule's name must be unique; {name} is {modules[name]} and {module}")
            modules[name] = module
        for point in entry_points(group=self._group):
            try:
                folder = _folder(point.value)
            except (ImportError, ValueError) as error:
                warnings.warn(f"the pages of {point.name} ({point.value}) were left out: {error}", stacklevel=2)
                continue
            for name, module in _pages(point.value, folder):
                if name in modules:
                    taken = f"a rule's name must be unique; {name} is {modules[name]} and {module}"
                    warnings.warn(f"a page of {point.name} was left out: {taken}", stacklevel=2)
                else:
                    modules[name] = module
        return modules

    def __getitem__(self, name: str) -> Rule:
        if name not in self._loaded:
            self._loaded[name] = self._of_file(Path(name)) if str(name).endswith(".py") else self._of_package(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        # `Mapping` would load the page, or seek which known names are like an unknown one: 3 ms.
        if str(name).endswith(".py"):
            return super().__contains__(name)
        return name in self._modules or name in self._short

    @cached_property
    def chapters(self) -> dict[str, str]:
        """The chapter of every rule by its name, of which none is loaded for that."""
        return {name: module.split(".")[-2] for name, module in self._modules.items()}

    @cached_property
    def _short(self) -> dict[str, str]:
        """By its name without that of its chapter, a page whose name ends in it."""
        ends = {name: f"_{chapter}" for name, chapter in self.chapters.items()}
        return {name.removesuffix(end): name for name, end in ends.items() if name.endswith(end)}

    def _of_package(self, name: str) -> Rule:
        if name not in self._modules and name in self._short:
            return self[self._short[name]]
        if name not in self._modules:
            low = str(name).lower()
            close = difflib.get_close_matches(low, self._modules) or [known for known in self._modules if low in known]
            hint = f"Did you mean {' or '.join(close)}?" if close else f"The rules are {', '.join(self._modules)}."
            raise UnknownRuleError(f"there is no rule {name!r}. {hint}")
        return Rule(name, importlib.import_module(self._modules[name]))

    def _of_file(self, path: Path) -> Rule:
        try:
            module = file_as_module(path)
        except ValueError as error:
            raise UnknownRuleError(f"there is no page in {str(path)!r}: {error}") from error
        return Rule(path.stem, module)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def _pages(package: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Name and module of every page in a folder."""
    for pattern in PAGES:
        for path in sorted(folder.glob(pattern)):
            yield path.stem, ".".join((package, *path.relative_to(folder).with_suffix("").parts))


def _folder(package: str) -> Path:
    """Where a package lies.  Raises ImportError if it is none."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"{package} must be a package of pages, and is none that can be imported")
    return Path(next(iter(spec.submodule_search_locations)))


RULES = Rules("manual_bp.rules", Path(__file__).parent / "rules")
