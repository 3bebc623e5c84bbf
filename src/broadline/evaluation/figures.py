"""The figures of a study: 3 to 7 of Busca & Balland (2018), and what the paper does not show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from broadline.evaluation import further_figures as further
from broadline.evaluation import paper_figures as paper
from broadline.evaluation.drawing import note_simulated, save, style
from broadline.evaluation.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "Plot", "save"]


#: Rules that figure 3 of the paper does not show beside "auto" and "auto+VI".
_RULES = (
    "auto+VI, authors' script",
    "DR16Q",
    "catalogue & auto+VI",
    "two lines, one line inspected",
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure of the report.

    Attributes
    ----------
    name : str
        Stem of its files.
    title, caption : str
        For the page that shows it.
    content : callable
        Study -> Figure, or None where the study has nothing to show.
    all_rules : bool
        All classifiers beside the catalogue are shown; else those of the paper, and other catalogues.
    """

    name: str
    title: str
    caption: str
    content: Callable[[Study], Figure | None]
    all_rules: bool = False

    def draw(self, study: Study) -> Figure | None:
        """Return the figure, marked as simulated if the study is; None if there is nothing to show."""
        # Classifiers have the names of files, and a dollar sign would begin a formula.
        named = {
            name.replace("$", r"\$"): each
            for name, each in study.baselines.items()
            if self.all_rules or name not in _RULES
        }
        shown = replace(study, baselines=named)
        with style():
            figure = self.content(shown)
            if figure is not None and study.simulated:
                note_simulated(figure)
        return figure


FIGURES: tuple[Plot, ...] = (
    Plot(
        "fig3_threshold",
        "Purity and completeness against threshold",
        "Busca & Balland (2018), figure 3 and section 4.1: purity and completeness of the quasars called, "
        "for one and for two lines above the threshold. Bands are the rms over splits, or for a single "
        "catalogue the middle 95 % of a bootstrap by object; horizontal lines are other classifiers. Look "
        "at where purity and completeness cross.",
        paper.over_threshold,
    ),
    Plot(
        "fig4_velocity",
        "Velocity difference to the annotated redshift",
        "Busca & Balland (2018), figure 4: dv = c (z - z_ann) / (1 + z_ann) of annotated quasars that are "
        "called, within 6000 km/s; dashed, other redshifts of the same quasars. Mean, standard deviation "
        "and NMAD are in km/s; look for an offset from zero and for wings.",
        paper.velocities,
    ),
    Plot(
        "fig5_bal_threshold",
        "Broad absorption: pseudo-purity and pseudo-completeness",
        "Busca & Balland (2018), figure 5 and section 4.2: of the quasars called BAL, those flagged or with "
        "BI_CIV > 0; of those flagged with BI_CIV > 0, those called BAL. Bands are the rms over splits, or "
        "for a single catalogue 95 % credible intervals.",
        paper.bal_over_threshold,
    ),
    Plot(
        "fig6_balnicity",
        "Balnicity of all and of missed BAL quasars",
        "Busca & Balland (2018), figure 6: balnicity index of C IV, above 0, of the annotated quasars that "
        "are called quasar, and of those among them not called BAL; dashed, the medians. The missed should "
        "be the weak.",
        paper.balnicity_of_missed,
    ),
    Plot(
        "fig7_redshift",
        "Purity and completeness against redshift",
        "Busca & Balland (2018), figure 7 and section 4.3: purity in 11 bins of the redshift found, "
        "completeness in bins of the annotated one, with 95 % credible intervals (Jeffreys' prior); other "
        "classifiers beside. Carets point to what is below the axis.",
        paper.over_redshift,
    ),
    Plot(
        "confusion",
        "Annotated class against verdict",
        "Secure annotations by class, against what the catalogue says. A redshift is right within 6000 km/s "
        "(section 4.1); percentages are of the row.",
        further.table_of_classes,
    ),
    Plot(
        "reliability",
        "Reliability of the probabilities",
        "How often what was given a probability came true, in bins of equal count with 95 % credible "
        "intervals, and the expected calibration error (Guo et al. 2017, equation 3). Points on the "
        "diagonal mean what they say; below it, the catalogue is too sure.",
        further.over_probability,
    ),
    Plot(
        "ripple",
        "Ripple of the redshifts at the box period",
        "Mean velocity difference of the quasars found with the right redshift, against where in its box "
        "a line is, with standard errors; above each, the amplitude of the wave of one box, which is "
        "1.25 times its error on average where there is none. Points should scatter about a level.",
        further.over_phase,
    ),
    Plot(
        "n_of_z",
        "Redshift distribution, recovered and true",
        "Redshifts of the quasars called (right or not) and annotated, on secure annotations, and their "
        "ratio where 10 or more are annotated. Look for redshifts at which the ratio leaves 1: there a "
        "line enters, leaves or is taken for another.",
        further.over_n_of_z,
    ),
    Plot(
        "signal_to_noise",
        "Purity and completeness against S/N",
        "As figure 7, in bins of equal count of the median signal-to-noise ratio per pixel; a point is at "
        "the median of its bin. Look at where completeness starts to fall.",
        paper.over_signal,
    ),
    Plot(
        "magnitude",
        "Purity and completeness against magnitude",
        "As figure 7, in bins of equal count of magnitude; a point is at the median of its bin.",
        paper.over_magnitude,
    ),
    Plot(
        "inspection",
        "Inspection against completeness",
        "Share of all spectra that experts would inspect, against the completeness reached if they are "
        "right. The curve is the scheme of section 5, two lines accepted and one line inspected, from low "
        "to high thresholds; points are other classifiers. Right and low is better.",
        further.over_inspection,
        all_rules=True,
    ),
)
