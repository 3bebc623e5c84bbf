// The few helpers that all panels share. Text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** A new element: properties, and children that are elements or text. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (name.startsWith("aria-") || name === "for") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Put children in place of what an element holds. */
export function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

const colours = new Map(); // asking the browser makes it lay out the page
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => colours.clear());

/** A value of the style sheet, such as a colour that depends on dark or light. */
export function style(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}

/** Do what nobody waits for once the browser has shown what somebody does. */
export const afterPaint = (work) => requestAnimationFrame(() => setTimeout(work));

export const written = (value, digits = 4) =>
  value === null || value === undefined ? "–" : Number(value).toFixed(digits);
