"""``--report-to trackio``: the lines of metrics.jsonl on a dashboard of this machine, too; ``trackio show`` opens it."""

from pathlib import Path

from minigrpo.config import BadInput, GRPOConfig, first_line


def check(config: GRPOConfig) -> None:
    """Raises BadInput if what the configuration reports to is not installed."""
    if config.report_to == "trackio":
        _trackio()


def start(config: GRPOConfig, folder: Path, step: int):
    """A trackio.Run that has ``log`` and ``finish``, or None. One that was at a step already goes on.

    It is kept on this machine, in trackio's own folder; only somebody who sets TRACKIO_SPACE_ID or TRACKIO_SERVER_URL, as
    trackio's documentation has it, sends it elsewhere.
    """
    if config.report_to == "none":
        return None
    settings = {"config": config.to_dict(), "resume": "allow" if step else "never"}
    alone = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    try:
        return _trackio().init(project="minigrpo", name=folder.name, **settings, **alone)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadInput(f"trackio cannot start: {first_line(error)}. Leave --report-to out to go without it.") from error


def _trackio():
    try:
        import trackio
    except ImportError as error:
        raise BadInput(f'--report-to needs trackio, and {error}; python -m pip install -e ".[trackio]" brings it.') from error
    return trackio
