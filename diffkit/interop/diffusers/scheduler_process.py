"""The process of diffusers' discrete schedulers."""

from __future__ import annotations

from typing import Any

from diffkit.interop.diffusers.scheduler_config import BetaConfig


def process_of(config: BetaConfig) -> dict[str, Any]:
    """Return the `[process]` table."""
    match config.beta_schedule:
        case "squaredcos_cap_v2":
            schedule: dict[str, Any] = {"kind": "cosine", "offset": 0.008, "max_beta": 0.999}
        case kind:
            schedule = {"kind": kind, "start": config.beta_start, "end": config.beta_end}
    return {
        "kind": "ddpm",
        "steps": config.num_train_timesteps,
        "schedule": schedule,
        "zero_terminal_snr": bool(getattr(config, "rescale_betas_zero_snr", False)),
    }
