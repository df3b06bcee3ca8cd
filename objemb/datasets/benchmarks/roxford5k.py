"""ROxford5k, the revisited Oxford: Radenovic et al., Revisiting Oxford and Paris, CVPR 2018."""

from __future__ import annotations

from objemb.datasets.benchmarks._revisited import Revisited
from objemb.registry import plugin


@plugin
class ROxford5k(Revisited):
    """4,993 photos of Oxford and 70 separate queries, with the setups easy, medium and hard."""

    layout = """\
Expected below the folder:
  jpg/                 the photos of oxford5k, queries among them, in this folder or in folders below it
  gnd_roxford5k.pkl     the ground truth, or gnd_roxford5k.mat
The ground truth is on the page "Revisiting Oxford and Paris" of the Visual Recognition Group, Prague, and in its
repository revisitop; the photos are those of oxford5k. The million distractors (revisitop1m) are found there, too: give
their folder as --distractors."""
    ground_truth = "gnd_roxford5k"
    images = 4993
