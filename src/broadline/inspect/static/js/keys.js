// What each key does, and the overlay that says so.

/** [keys, what the overlay calls them, what they do, action of the page, its argument] */
const KEYS = [
  [["Enter", " "], "Enter, space", "accept what is shown and go on", "accept"],
  [["n"], "n", "next solution", "solution", 1],
  [["N"], "shift n", "solution before", "solution", -1],
  [["l"], "l", "take the surest line for another one", "reidentify"],
  [["v"], "v", "begin with another inspector's verdict", "takeOther"],
  [["q"], "q", "quasar", "kind", "QSO"],
  [["g"], "g", "galaxy", "kind", "GALAXY"],
  [["s"], "s", "star", "kind", "STAR"],
  [["u"], "u", "cannot be identified", "kind", "?"],
  ...[0, 1, 2, 3, 4].map((n) => [
    [String(n)], String(n),
    ["nothing there", "signal, no known feature", "one strong feature, unsure which", "probable: a secure feature",
      "secure: two features or more"][n], "quality", n,
  ]),
  [["b"], "b", "broad absorption, or not", "bal"],
  [["c"], "c", "comment (Enter or Esc leaves)", "comment"],
  [["z"], "z", "type a redshift (Enter applies)", "typeRedshift"],
  [["ArrowRight"], "→", "redshift up 100 km/s (shift: 1000)", "shift", 100],
  [["ArrowLeft"], "←", "redshift down 100 km/s (shift: 1000)", "shift", -100],
  [["Backspace"], "Backspace", "undo the last verdict", "undo"],
  [["j", "]"], "j, ]", "next spectrum", "go", 1],
  [["k", "["], "k, [", "spectrum before", "go", -1],
  [["J"], "shift j", "next one without a verdict", "nextOpen"],
  [["ArrowUp", "+", "="], "↑, +", "zoom in", "zoom", 1 / 1.5],
  [["ArrowDown", "-"], "↓, -", "zoom out", "zoom", 1.5],
  [["w"], "w", "whole spectrum", "whole"],
  [["x"], "x", "zoom to the next line", "nextLine"],
  [[".", ">"], ".", "smooth more", "smoothing", 1],
  [[",", "<"], ",", "smooth less", "smoothing", -1],
  [["e"], "e", "error band", "overlay", "error"],
  [["m"], "m", "the pipeline's model", "overlay", "model"],
  [["o"], "o", "a typical quasar at this redshift", "overlay", "composite"],
  [["a"], "a", "lines of stars and galaxies", "overlay", "stars"],
  [["f"], "f", "filter (Enter applies)", "filter"],
  [["d"], "d", "next queue", "nextQueue"],
  [["r"], "r", "agreement and purity", "statistics"],
  [["?", "h"], "?, h", "this help", "help"],
];
const ACTIONS = new Map(KEYS.flatMap(([keys, , , action, argument]) => keys.map((key) => [key, [action, argument]])));

/** The action of a key press and its argument; null for keys of the browser and of fields. */
export function actionOf(event) {
  if ((event.ctrlKey || event.metaKey) && event.key === "z") return ["undo"];
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const found = ACTIONS.get(event.key) ?? null;
  if (found?.[0] === "shift" && event.shiftKey) return ["shift", 10 * found[1]];
  return found;
}

export const helpLines = () => KEYS.map(([, keys, text]) => [keys, text]);
