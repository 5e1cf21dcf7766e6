"""Does global attention win where it should? The paper's ablations in small, each beside its twin."""
