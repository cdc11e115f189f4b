"""The commands and their flags, which programs outside of this repository call: a change here breaks them."""

import typer

from experiments import cli

MACHINE = {"--device", "--workers"}
ENGINE = {"--memory-gb", "--scheduler", "--from-colmap"}
SETTINGS = {"--protocol", "--set", "--seed"}
SHARED = MACHINE | ENGINE | SETTINGS | {"--weights", "--whitening-from"}

COMMANDS = {
    "run": (
        ["PHOTOS"],
        {"--data", "--dry-run", "--out", "--rounds", "--verify", "--weights"} | MACHINE | ENGINE | SETTINGS,
    ),
    "reconstruct": (["PHOTOS"], {"--out", "--workers"} | ENGINE | SETTINGS),
    "mine": (["WORK/sfm"], {"--out", "--photos"} | SETTINGS),
    "export": (
        ["WORK/sfm|WORK/pairs|MODEL|DIR"],
        {"--out", "--to", "--name", "--whitening-from", "--weights"},
    ),
    "train": (["WORK/pairs"], {"--out", "--weights", "--profile"} | MACHINE | SETTINGS),
    "calibrate": (["MODEL", "WORK/pairs"], MACHINE),
    "extract": (
        ["MODEL", "PHOTOS"],
        {"--out", "--scales", "--image-size", "--whitening", "--no-whitening", "--list", "--weights"}
        | {"--whitening-from", "--local", "--local-set", "--regions", "--scheduler"}
        | MACHINE,
    ),
    "index": (["DIR"], {"--kind", "--local", "--words"}),
    "search": (
        ["MODEL", "DIR", "QUERY"],
        {
            "--top",
            "--box",
            "--rerank",
            "--local-index",
            "--min-confidence",
            "--json",
            "--whitening-from",
            "--weights",
            "--also",
            "--scheduler",
        }
        | MACHINE,
    ),
    "serve": (
        ["MODEL", "DIR"],
        {"--host", "--port", "--photos", "--work", "--whitening-from", "--weights", "--device"},
    ),
    "evaluate": (
        ["MODEL", "BENCHMARK"],
        {"--data", "--scales", "--image-size", "--whitening", "--no-whitening", "--uncropped", "--rerank"}
        | {"--database", "--queries", "--distractors", "--json", "--whitening-from", "--weights"}
        | {"--scheduler"}
        | MACHINE,
    ),
    "match": (["A", "B"], {"--out", "--features", "--geometry", "--seed", "--json"}),
    "download": (["NAME"], {"--data", "--mirror", "--keep-archives", "--dry-run"}),
    "duplicates": (["DIR"], {"--crops", "--json", "--workers"}),
    "places": (["WORK/sfm"], {"--out"}),
    "compare": (["RUN_A", "RUN_B"], {"--json", "--seed"}),
    "report": (["WORK"], set()),
    "doctor": (["WORK"], set()),
    "demo": ([], {"--out", "--set", "--seed", "--memory-gb"} | MACHINE),
}


def test_commands_and_flags():
    found = {}
    for name, command in typer.main.get_command(cli.app).commands.items():
        arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option"]
        found[name] = (arguments, {flag for p in options for flag in (*p.opts, *p.secondary_opts)})
    assert found == COMMANDS


def test_the_same_option_says_the_same_everywhere():
    said = {}
    for command in typer.main.get_command(cli.app).commands.values():
        for parameter in command.params:
            if {*parameter.opts} & SHARED:
                said.setdefault(parameter.opts[0], set()).add(
                    (parameter.help, parameter.metavar, str(parameter.default))
                )
    assert set(said) == SHARED
    assert {option: len(texts) for option, texts in said.items()} == dict.fromkeys(said, 1)


def test_every_command_and_option_is_explained():
    for name, command in typer.main.get_command(cli.app).commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
