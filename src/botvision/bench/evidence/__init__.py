"""Does global attention win where it should? The paper's ablations in small, beside their twin."""
