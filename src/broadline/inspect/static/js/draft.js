// The verdict being made: what it begins with, and what follows when a part of it changes. No page is needed for it.

const LOWEST_Z = -0.01, HIGHEST_Z = 12;
const STELLAR = 0.01; // redshifts nearer to 0 may be a star's
const AT_REST = 0.002;

/** What to begin with: one's own verdict, or what the catalogue says, or the survey's pipeline. */
export function draftOf({ verdict, called, z, bal, pipeline, solutions, missing }, kinds) {
  if (verdict) return asDraft(verdict);
  const kind = called ? "QSO" : kinds.includes(pipeline?.class) ? pipeline.class : "";
  const best = called || !pipeline ? (z ?? solutions[0]?.z ?? 0) : pipeline.z;
  return { kind, z: best, quality: missing ? 0 : 4, bal: called && bal, comment: "" };
}

/** A verdict that was given, to be given again or changed. */
export function asDraft({ kind, z, quality, bal, comment }) {
  return { kind, z, quality, bal, comment };
}

export const withinReach = (z) => Math.min(Math.max(z, LOWEST_Z), HIGHEST_Z);

/** The redshift when the class changes: a star is near 0; the others are not, and get the first solution back. */
export function redshiftOf(kind, z, { pipeline, solutions }) {
  if (kind === "STAR" && Math.abs(z ?? 1) > STELLAR) return pipeline?.class === "STAR" ? pipeline.z : 0;
  if ((kind === "QSO" || kind === "GALAXY") && (z === null || Math.abs(z) < AT_REST)) return solutions[0]?.z ?? z;
  return z;
}

/**
 * What the surest line would be as each other one that the finders know, its own name first: [{from, to, z}].
 *
 * @param finders of the spectrum, with name, z and confidence
 * @param lines of the project, with name, text, wavelength and bal
 */
export function identities(finders, lines) {
  const emission = new Map(lines.filter((line) => !line.bal).map((line) => [line.name, line]));
  const [best] = finders.filter(({ name, z }) => z !== null && emission.has(name)).sort((a, b) => b.confidence - a.confidence);
  if (!best) return [];
  const from = emission.get(best.name), observed = from.wavelength * (1 + best.z);
  const possible = [...emission.values()].filter((line) => observed > line.wavelength);
  const own = possible.indexOf(from);
  return [...possible.slice(own), ...possible.slice(0, own)]
    .map((to) => ({ from: from.text, to: to.text, z: observed / to.wavelength - 1 }));
}
