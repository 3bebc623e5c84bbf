"""The instruments of the archives, each a few measured numbers (``benchmarks/measure_instruments.py``)."""

from __future__ import annotations

from broadline.simulation.instrument import Arm, Defects, Instrument

__all__ = ["BOSS", "DESI", "INSTRUMENTS", "LAMOST", "SDSS"]


def _row(numbers: str) -> tuple[float, ...]:
    return tuple(float(number) for number in numbers.split())


#: BOSS and eBOSS (Smee et al. 2013): 2 arcsec fibres, 3600-10400 A, arms joined at ~6000 A. Measured: 27
#: standards of three plates; read noise 8 e = 4 exposures of 3 rows at 2.0-2.7 e (Smee et al., table 4).
BOSS = Instrument(
    name="boss",
    arms=(Arm("blue", 3572.8, 6000.0), Arm("red", 6000.0, 10346.7)),
    linear_step=0,
    nodes=_row(
        "3560 3620 3700 3850 4100 4500 5000 5500 5800 6000 6200 6600 7200 7900 8600 9100 9500 "
        "9800 10100 10380"
    ),
    electrons=_row(
        "2.43 3.38 6.26 12.5 22.8 34.7 45.6 49.3 48.3 55.1 60.7 72.6 83.4 83.9 86.3 79.9 47.4 46.0 17.3 2.92"
    ),
    sky=_row(
        "5.12 3.22 3.67 3.77 3.67 3.6 3.29 3.47 4.22 4.76 3.52 2.66 2.37 3.31 2.36 2.04 2.75 2.6 5.6 5.0"
    ),
    wdisp=_row(
        "1.29 1.35 1.32 1.24 1.15 1.04 0.974 0.904 0.884 0.944 0.958 0.935 0.881 0.829 0.78 0.759 "
        "0.753 0.767 0.81 0.854"
    ),
    read_noise=8.0,
    line_scale=1.0,
    shape_scatter=0.05,
    # Quasar fibres are set for light of 4000 A, standards for 5400 A: calibrated, quasars come out too blue
    # (Margala et al. 2016, ApJ 831, 157).
    defects=Defects(rejected=6.5, blue_loss=-0.12),
)

#: SDSS-I/II (York et al. 2000): 3 arcsec fibres, 3800-9200 A. Measured: 29 sky fibres of five plates; read
#: noise assumed 12 e (three exposures of some four rows at 4-5 e).
SDSS = Instrument(
    name="sdss",
    arms=(Arm("blue", 3803.0, 6000.0), Arm("red", 6000.0, 9210.0)),
    linear_step=0,
    nodes=_row("3800 3860 3950 4150 4500 5000 5500 5800 6000 6200 6600 7200 7900 8500 9000 9250"),
    electrons=_row("4.69 5.43 6.95 11.5 16.9 23.4 25.9 23.5 32.1 38.6 53.9 57.1 44.1 27.9 18.3 16.1"),
    sky=_row("5.0 4.0 4.29 5.72 5.83 5.15 5.89 8.12 9.3 6.74 4.96 4.32 5.73 4.0 3.68 3.14"),
    wdisp=_row("1.22 1.21 1.18 1.13 1.05 0.948 0.866 0.828 0.916 0.94 0.884 0.793 0.711 0.682 0.708 0.728"),
    read_noise=12.0,
    line_scale=1.8,
    shape_scatter=0.025,
    defects=Defects(rejected=0.2, fringe=0.01, ragged=8.0, sky_lines=0.019),
)

#: LAMOST low resolution (Zhao et al. 2012; Luo et al. 2015): 3.3 arcsec fibres, R ~ 1800, 3700-9100 A on the
#: SDSS lattice, arms joined near 5900 A, where flux calibration is poor. Measured: the shape of `electrons`,
#: on 128 stars of one plate. Assumed: its scale, the read noise, and the sky (SDSS's by area of the fibre;
#: its lines 3.6 times that, so that sigma shows them in stars of S/N 60 as it does there).
LAMOST = Instrument(
    name="lamost",
    arms=(Arm("blue", 3699.986, 5900.0), Arm("red", 5900.0, 9099.13)),
    linear_step=0,
    nodes=_row(
        "3690 3760 3850 4000 4250 4600 5000 5400 5650 5800 5880 5950 6050 6200 6600 7200 7900 8500 8900 9080"
    ),
    electrons=_row(
        "0.34 0.64 1.5 4.2 9.6 20.8 32.0 38.6 33.0 27.8 27.0 41.6 58.8 74.0 122 175 140 130 70.0 55.0"
    ),
    sky=_row("5.5 5.5 5.3 6.3 6.9 7.0 6.3 6.6 8.0 9.6 18.0 18.0 9.5 8.0 6.0 5.2 6.9 4.8 4.4 4.0"),
    wdisp=_row(
        "1.15 1.13 1.12 1.1 1.08 1.05 1.02 1.0 1.0 1.0 1.0 1.0 1.02 1.02 1.0 0.98 0.96 0.95 0.95 0.95"
    ),
    read_noise=10.0,
    line_scale=9.0,
    shape_scatter=0.08,
    defects=Defects(
        overstated=0.0,
        overstated_bright=0.0,
        correlation=0.0,
        slope=0.12,
        curvature=0.08,
        ripple=0.02,
        step=0.06,
        join=0.04,
        rejected=10.0,
    ),
)

#: DESI (DESI Collaboration 2022; Guy et al. 2023): 1.5 arcsec fibres, R 2000 at 3600 to 5500 at 9800 A, 0.8 A
#: pixels in three cameras. Nothing measured here: electrons of 1000 s at the published throughput (0.05 to
#: 0.4 with atmosphere and fibre losses), the BOSS sky by area of the fibre, read noise 3 e on some 4 rows.
DESI = Instrument(
    name="desi",
    arms=(Arm("b", 3600.0, 5800.0), Arm("r", 5760.0, 7620.0), Arm("z", 7520.0, 9824.0)),
    linear_step=0.8,
    nodes=_row("3600 3750 4000 4500 5000 5600 6000 6500 7200 7600 8200 8800 9300 9824"),
    electrons=_row("4 8 14 24 31 34 42 52 59 60 66 68 60 42"),
    sky=_row("2.2 2.1 2.1 2.0 1.8 1.9 2.1 1.7 1.4 1.6 1.6 1.3 1.3 1.6"),
    wdisp=_row("0.92 0.88 0.82 0.72 0.65 0.57 0.56 0.51 0.46 0.44 0.41 0.38 0.36 0.34"),
    read_noise=6.0,
    line_scale=0.6,
    shape_scatter=0.05,
    defects=Defects(
        overstated=0.0, overstated_bright=0.0, correlation=0.0, step=0.01, join=0.005, fringe=0.002
    ),
)

#: One object an archive, by name.
INSTRUMENTS = {instrument.name: instrument for instrument in (BOSS, SDSS, LAMOST, DESI)}
