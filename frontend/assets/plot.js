// A line plot of the last minutes, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 120;
/** Room for the labels of the upper line. */
const TOP = 16;
export const SPAN_S = 300;
/** What is shown as long as there is no more than that. */
const SPAN_FIRST_S = 60;

export class Plot {
  /** `series`: pairs of a key in samples and a label; `write` makes a text of a value. */
  constructor(title, series, write, least = 1) {
    Object.assign(this, { title, series, write, least });
    this.node = element("figure", "plot");
    const caption = element("figcaption", "", title);
    this.now = element("p", "plot-now");
    this.values = series.map(([, label], at) => {
      const entry = element("span", `series-${at}`);
      const value = element("strong");
      if (series.length > 1) entry.append(shape("svg", { class: "swatch", viewBox: "0 0 18 6", "aria-hidden": "true" }, shape("path", { d: "M0 3h18", class: `line series-${at}` })), ` ${label} `);
      entry.append(value);
      this.now.append(entry);
      return value;
    });
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    this.grid = shape("path", { class: "grid", d: `M0 ${TOP}H${WIDTH}M0 ${(HEIGHT + TOP) / 2}H${WIDTH}M0 ${HEIGHT - 1}H${WIDTH}` });
    this.upper = shape("text", { x: 0, y: TOP - 4, class: "scale" });
    this.lines = series.map((_, at) => shape("path", { class: `line series-${at}` }));
    this.svg.append(this.grid, this.upper, ...this.lines);
    this.start = element("span");
    this.node.append(caption, this.now, this.svg, element("p", "plot-axis", this.start, element("span", "", "now")));
  }

  /** Draws samples, oldest first, each with its time `t` in seconds. */
  draw(samples, now) {
    const seen = samples.flatMap((sample) => this.series.map(([key]) => sample[key])).filter((value) => value != null);
    const most = Math.max(this.least, ...seen);
    const upper = rounded(most);
    const span = samples.length > 0 && now - samples[0].t > SPAN_FIRST_S ? SPAN_S : SPAN_FIRST_S;
    const x = (t) => WIDTH - ((now - t) / span) * WIDTH;
    const y = (value) => HEIGHT - 1 - (value / upper) * (HEIGHT - 1 - TOP);
    this.series.forEach(([key], at) => {
      let path = "";
      let broken = true;
      for (const sample of samples) {
        const value = sample[key];
        if (value == null) {
          broken = true;
          continue;
        }
        path += `${broken ? "M" : "L"}${x(sample.t).toFixed(1)} ${y(value).toFixed(1)}`;
        broken = false;
      }
      this.lines[at].setAttribute("d", path);
      this.values[at].textContent = this.word(samples.at(-1)?.[key]);
    });
    this.start.textContent = span === SPAN_S ? "5 minutes ago" : "1 minute ago";
    this.upper.textContent = this.write(upper);
    const words = this.series.map(([key, label]) => `${label} ${this.word(samples.at(-1)?.[key])}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title} over the last minutes: now ${words}; highest ${this.write(most)}.`);
  }

  word(value) {
    return value == null ? "–" : this.write(value);
  }
}

/** The next 1, 2 or 5 of some power of ten. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export function element(name, className = "", ...parts) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...parts);
  return node;
}

function shape(name, attributes, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
