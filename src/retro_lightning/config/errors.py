"""Behaviour half: turns errors of parser and constructors into one sentence each.

The sentence names file and line, or the command line; the dotted key; and the remedy.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable, Sequence
from types import TracebackType

from retro_lightning.config.locate import Place, config_files, nearest, places

_UNKNOWN_KEY = re.compile(r"(?:Group '(?P<group>[^']+)' does not accept o|O)ption '(?P<key>[^']+)'")
_UNRECOGNISED = re.compile(r"unrecognized arguments: (?P<words>.*)", re.DOTALL)
_REQUIRED = re.compile(
    r"following arguments are required: (?P<keys>\w+(?:\.\w+)*(?:, \w+(?:\.\w+)*)*)"
)
_PARSER_KEY = re.compile(r'Parser key "(?P<key>[^"]+)":?\s*(?P<rest>.*)', re.DOTALL)
_CLASS = re.compile(r"class_path '(?P<path>[^']+)'|class_path='(?P<named>[^']+)'")
_NOT_ACCEPTED = re.compile(r"Option '(?P<key>[^']+)' is not accepted")
_NO_CLASS = re.compile(r"has no attribute '|No module named '|Unable to import|Invalid import path")
_WRONG_CLASS = re.compile(
    r"(?:Import path (?P<path>\S+) does not correspond to|Expected '(?P<given>[^']+)' to be) "
    r"a subclass of (?:<class ')?(?P<base>[\w.]+)"
)
_EXPECTED = re.compile(r"Expected an? <class '([\w.]+)'>")
_VALUE = re.compile(r"(?:Got value|Given value): (?P<value>[^\n]*)")
_CHOICES = re.compile(
    r"Expected an? typing\.Literal\[(?P<choices>[^\]]+)\]\. "
    r"Got value: (?P<value>.*?)(?:\. Got|\n|$)"
)
_REFERENCE = re.compile(r"Interpolation key '\.*(?P<key>[^']+)'|trying to access (?P<node>[\w.]+)")
_FULL_KEY = re.compile(r"full_key: (?P<key>\S+)")
_NOISE = re.compile(r"^\s*(?:-\s*)?(?:Does not validate|Subtypes:|Errors:|Given value|Expected a)")
_TYPE_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


class ConfigError(ValueError):
    """A mistake in configuration or command line, told in one sentence."""


def explain_parsing(error: Exception, keys: Iterable[str], args: Sequence[str]) -> ConfigError:
    """The sentence for an error of the argument parser.

    Args:
        error: What the parser raised.
        keys: All dotted keys that the parser knows.
        args: The command line after the command.
    """
    message, known = str(error), sorted(keys)
    if match := _UNRECOGNISED.search(message):
        words = [word for word in match["words"].split() if word.startswith("--")]
        if not words:
            return ConfigError(f"command line: {match['words']!r} belongs to no option; remove it")
        return _unknown_key(words[0].lstrip("-").split("=")[0], known, args)
    if match := _PARSER_KEY.match(message):
        return _bad_value(match["key"], match["rest"], args)
    if match := _REFERENCE.search(message):
        return _bad_reference(match["key"] or match["node"], message, known, args)
    if match := _REQUIRED.search(message):
        return ConfigError(f"{match['keys']} is missing: set it in a --config file")
    if match := _UNKNOWN_KEY.search(message):
        key = f"{match['group']}.{match['key']}" if match["group"] else match["key"]
        return _unknown_key(key, known, args)
    return ConfigError(_condensed(message))


def refuse_unknown_keys(keys: Iterable[str], args: Sequence[str]) -> None:
    """Refuse unknown keys of the files' first two levels, empty ones too, which parsers pass over.

    Args:
        keys: All dotted keys that the parser knows.
        args: The command line after the command.

    Raises:
        ConfigError: For the first unknown key.
    """
    known = sorted(keys)
    prefixes = {".".join(key.split(".")[:depth]) for key in known for depth in (1, 2)}
    for place in places(config_files(args)):
        if place.key.count(".") < 2 and place.key not in prefixes:
            raise _unknown_key(place.key, known, args)


def _unknown_key(key: str, known: Sequence[str], args: Sequence[str]) -> ConfigError:
    """Find the first part of the key that no known key has at its place."""
    parts, depth = key.split("."), 0
    while any(name.split(".")[: depth + 1] == parts[: depth + 1] for name in known):
        depth += 1
    bad, parent = ".".join(parts[: depth + 1]), ".".join(parts[:depth])
    siblings = [name for name in known if name.startswith(f"{parent}." if parent else "")]
    place = _find(args, key=bad)
    hint = nearest(bad, {".".join(name.split(".")[: depth + 1]) for name in siblings})
    if place is None:
        hint = nearest(key, siblings) or hint
        suggestion = f"did you mean --{hint}?" if hint else "remove it"
        return ConfigError(f"command line: there is no option --{key}; {suggestion}")
    suggestion = f"did you mean {hint}?" if hint else "remove it"
    return ConfigError(f"{place}: {bad} is not a known key; {suggestion}")


def _bad_value(key: str, rest: str, args: Sequence[str]) -> ConfigError:
    """The sentence for a value that its key doesn't take; ``rest`` is the parser's complaint."""
    found = [match["path"] or match["named"] for match in _CLASS.finditer(rest)]
    path = found[-1] if found else None
    if inner := list(re.finditer(r'Parser key "([^"]+)"', rest)):
        name, rest = inner[-1][1], rest[inner[-1].end() :].lstrip(": \n")
        classes = [match["path"] or match["named"] for match in _CLASS.finditer(rest)]
        if classes and (match := _NOT_ACCEPTED.search(rest)):  # settings that are a class
            return _no_argument(key, match["key"], classes[-1], args)
        last = name.split(".")[-1]
        given = [word.partition("=")[0].lstrip("-") for word in args if word.startswith("--")]
        option = [each for each in given if each.startswith(f"{key}.") and each.endswith(last)]
        place = _find(args, under=key, last=last)
        if match := _CHOICES.search(rest):
            place = _find(args, under=key, last=last, value=match["value"]) or place
        full = option[-1] if option else place.key if place else f"{key}.{name}"
        return _wrong_type(_where(place, full, args), rest)
    if path is not None and (match := _NOT_ACCEPTED.search(rest)):
        return _no_argument(key, match["key"], path, args)
    match = _WRONG_CLASS.search(rest)
    path = (match["path"] or match["given"]) if match else path
    place = _find(args, under=key, value=path) if path is not None else None
    where = _where(place, place.key if place else key, args)
    if match:
        return ConfigError(f"{where}: {path} is no {match['base']}; name a class that is one")
    if path is not None and (match := _REQUIRED.search(rest)):
        return ConfigError(f"{where}: {path} needs {match['keys']}; set it under init_args")
    if path is not None and _NO_CLASS.search(rest):
        return ConfigError(f"{where}: {_no_such_class(path)}")
    return _wrong_type(_where(_find(args, key=key), key, args), rest)


def _no_argument(key: str, option: str, path: str, args: Sequence[str]) -> ConfigError:
    """An argument, under a key, that a class does not take."""
    name = option.split(".")[-1]
    place = _find(args, under=key, last=name)
    hint = nearest(name, _parameters(path))
    suggestion = f"did you mean {hint}?" if hint else _parameter_list(path)
    where = _where(place, place.key if place else f"{key}.{name}", args)
    return ConfigError(f"{where} is not an argument of {path}; {suggestion}")


def _wrong_type(where: str, rest: str) -> ConfigError:
    if match := _CHOICES.search(rest):
        choices = " or ".join(choice.strip(" '") for choice in match["choices"].split(","))
        return ConfigError(f"{where} is {match['value']!r}; give {choices}")
    types = [name for name in _EXPECTED.findall(rest) if name != "NoneType"]
    value = _VALUE.search(rest)
    if not types or value is None:
        return ConfigError(f"{where}: {_condensed(rest)}")
    wanted = " or ".join(dict.fromkeys(_TYPE_WORDS.get(name, name) for name in types))
    return ConfigError(f"{where} is {value['value'].strip()!r}; give {wanted}")


def _bad_reference(
    target: str, message: str, known: Iterable[str], args: Sequence[str]
) -> ConfigError:
    match = _FULL_KEY.search(message)
    key = match["key"] if match else ""
    hint = nearest(target, (name for name in known if name != target))
    suggestion = f"did you mean ${{{hint}}}?" if hint else "check its spelling"
    where = _where(_find(args, key=key), key, args)
    return ConfigError(f"{where} refers to ${{{target}}}, which does not exist; {suggestion}")


def _no_such_class(path: str) -> str:
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError):
        return f"the module of {path} can't be imported; check its spelling or install it"
    hint = nearest(name, vars(module))
    suggestion = f"did you mean {module_name}.{hint}?" if hint else "check its spelling"
    return f"there is no class {path}; {suggestion}"


def _parameters(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        part = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return []
    names: list[str] = []
    for base in inspect.getmro(part)[:-1] if inspect.isclass(part) else [part]:
        if callable(own := vars(base).get("__init__", base)):
            names += inspect.signature(own).parameters
    return [name for name in dict.fromkeys(names) if name not in ("self", "args", "kwargs")]


def _parameter_list(path: str) -> str:
    names = _parameters(path)
    return f"it takes {', '.join(names)}" if names else "it takes none"


def _find(
    args: Sequence[str],
    *,
    key: str | None = None,
    under: str = "",
    last: str | None = None,
    value: str | None = None,
) -> Place | None:
    """The last place in the files that fits: later files win over earlier ones."""
    found = None
    for place in places(config_files(args)):
        if (
            (key is None or place.key == key)
            and (not under or place.key == under or place.key.startswith(f"{under}."))
            and (last is None or place.key.rpartition(".")[2] == last)
            and (value is None or place.value == value)
        ):
            found = place
    return found


def _where(place: Place | None, key: str, args: Sequence[str]) -> str:
    """File, line and key, or the option of the command line that has overridden it."""
    if any(re.match(rf"--{re.escape(key)}(=|$)", word) for word in args):
        return f"command line: --{key}"
    return f"{place}: {key}" if place is not None else key


def _condensed(message: str) -> str:
    """The first line that says something, of a message of many lines."""
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    text = (lines or message.splitlines() or [""])[0].strip()
    return text.removeprefix("- ").strip()


# ---------------------------------------------------------------------- constructors and runs
def explain_run(error: BaseException, args: Sequence[str]) -> str:
    """The sentence for an error raised by a constructor or in the course of a run.

    Where the constructor of a class raised it, file, line and key that name the class are put in
    front, or its name if it is named more than once.
    """
    root = _root(error)
    message = _condensed(str(root)) or type(root).__name__
    cls = _failing_class(root.__traceback__)
    if cls is None:
        return message
    names = (cls.__name__, f"{cls.__module__}.{cls.__qualname__}")
    found = {p.key: p for p in places(config_files(args)) if p.value in names}
    if len(found) != 1:
        return f"{cls.__name__}: {message}" if found else message
    [(key, place)] = found.items()
    return f"{place}: {key.removesuffix('.class_path')}: {message}"


def _root(error: BaseException) -> BaseException:
    """What a parser's own error was raised from."""
    while error.__cause__ is not None and type(error.__cause__) is type(error):
        error = error.__cause__
    return error


def _failing_class(traceback: TracebackType | None) -> type | None:
    """The class whose constructor an error left last."""
    cls = None
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name in ("__init__", "__post_init__") and "self" in frame.f_locals:
            cls = type(frame.f_locals["self"])
        traceback = traceback.tb_next
    return cls
