// The live view of the cluster: asks this front end for everybody's status, four times a second, and shows it.
//
// What a screen reader is told by itself is the state of the whole and what happened, not every number.

import { picture, changes, sample, STATE_WORDS } from "./model.js";
import { Plot, SPAN_S, element } from "./plot.js";

const EVERY_MS = 250;
/** Between two points of a plot. */
const POINT_S = 1;
/** A front end that has not answered by then counts as lost. */
const LIMIT_MS = 2_000;
const EVENTS_MAX = 50;
const KEPT = "quire-cluster-samples";
/** How far the tape moves per entry, and at most at a time, in pixels. */
const TAPE_STEP = 6;
const TAPE_MOST = 72;

const root = document.getElementById("cluster");
const health = document.getElementById("health");
const causes = document.getElementById("causes");
const groups = document.getElementById("groups");
const events = document.getElementById("events");

const whole = (value) => Math.round(value).toLocaleString("en");
const few = (value) => (value >= 10 || value === 0 ? whole(value) : value.toPrecision(2));
const plots = [
  new Plot("Requests per second", [["requests", "requests"]], few, 10),
  new Plot("Time to answer", [["p99", "p99"], ["p50", "p50"]], (ms) => `${few(ms)} ms`, 1),
  new Plot("Answered from memory", [["hits", "hits"]], (percent) => `${Math.round(percent)} %`, 100),
  new Plot("Copies sold per second", [["sales", "copies"]], few, 1),
  new Plot("Log entries per second", [["catalog", "catalog"], ["order", "orders"]], few, 10),
  new Plot("Entries behind", [["catalogLag", "catalog"], ["orderLag", "orders"]], few, 10),
];
document.getElementById("plots").append(...plots.map((plot) => plot.node));

const known = new Map();
const cards = new Map();
let samples = restored();
let last = null;
/** What the newest point was made of. */
let plotted = null;

const seconds = () => Date.now() / 1000;

async function ask() {
  const status = await answered();
  if (status) show(status);
  else lost();
}

/** What the front end says, or null if it does not. */
async function answered() {
  try {
    const answer = await fetch("/cluster/status", { headers: { accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(LIMIT_MS) });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

function show(status) {
  const now = seconds();
  const shown = picture(status, known);
  const back = root.dataset.state === "lost";
  root.dataset.state = "live";
  if (back) happened([{ text: "The front end answers again" }]);
  happened(changes(last?.shown, shown));
  const { daemons } = shown;
  const answering = daemons.filter((daemon) => daemon.state !== "down").length;
  say(health, shown.healthy ? `All ${daemons.length} daemons are well` : answering < daemons.length ? `${daemons.length - answering} of ${daemons.length} daemons ${daemons.length - answering === 1 ? "does" : "do"} not answer` : "Something is wrong");
  health.classList.toggle("bad", !shown.healthy);
  sync(causes, shown.causes);
  for (const section of shown.sections) draw(section);
  last = { shown, at: now };
  if (!plotted || now - plotted.at >= POINT_S) plot(shown, now);
  for (const id of ["plots-section", "events-section"]) document.getElementById(id).hidden = false;
}

function plot(shown, now) {
  samples.push({ t: now, ...sample(plotted?.shown, shown, plotted ? now - plotted.at : 0) });
  samples = samples.filter((sample) => now - sample.t <= SPAN_S);
  plotted = { shown, at: now };
  const even = smooth(samples);
  for (const plot of plots) plot.draw(even, now);
}

function lost() {
  if (root.dataset.state !== "lost" && last) happened([{ bad: true, text: "The connection to the front end is lost" }]);
  root.dataset.state = "lost";
  say(health, "Connection lost, retrying");
  health.classList.add("bad");
  if (plotted) samples.push({ t: seconds() });
  plotted = null;
}

/** Counters are read by their daemons at moments of their own; three points together even that out. */
function smooth(samples) {
  const rates = ["requests", "sales", "catalog", "order"];
  return samples.map((sample, at) => {
    const near = samples.slice(Math.max(0, at - 2), at + 1);
    const even = (key) => {
      const known = near.map((sample) => sample[key]).filter((value) => value != null);
      return sample[key] == null ? null : known.reduce((sum, value) => sum + value, 0) / known.length;
    };
    return { ...sample, ...Object.fromEntries(rates.map((key) => [key, even(key)])) };
  });
}

function draw(section) {
  let node = document.getElementById(`group-${section.role}`);
  if (!node) {
    node = element("section", "group");
    node.id = `group-${section.role}`;
    const heading = element("h2", "", section.title);
    heading.id = `heading-${section.role}`;
    node.setAttribute("aria-labelledby", heading.id);
    node.append(heading, element("p", "group-line"), element("ul", "daemons"));
    groups.append(node);
  }
  const line = node.querySelector(".group-line");
  say(line, section.line);
  line.classList.toggle("bad", section.down);
  const list = node.querySelector(".daemons");
  for (const daemon of section.daemons) {
    let card = cards.get(daemon.address);
    if (!card) {
      card = new Card(daemon);
      cards.set(daemon.address, card);
      list.append(card.node);
    }
    card.show(daemon);
  }
}

/** One daemon. */
class Card {
  constructor(daemon) {
    this.node = element("li", "daemon");
    this.name = element("h3");
    this.badge = element("span", "badge");
    this.address = element("p", "address");
    this.tape = element("div", "tape");
    this.tape.setAttribute("aria-hidden", "true");
    this.facts = element("dl", "figures");
    this.cause = element("p", "cause");
    const head = element("div", "daemon-head");
    head.append(this.name, this.badge);
    this.node.append(head, this.address);
    if (daemon.role !== "frontend") this.node.append(this.tape);
    this.node.append(this.facts, this.cause);
    this.index = null;
    this.offset = 0;
  }

  show(daemon) {
    this.node.dataset.state = daemon.state;
    this.node.dataset.address = daemon.address;
    say(this.name, daemon.name);
    say(this.badge, STATE_WORDS[daemon.state] ?? daemon.state);
    say(this.address, `${daemon.address}, id ${daemon.id ?? "unknown"}`);
    say(this.cause, daemon.state === "down" || daemon.state === "unready" || daemon.state === "waiting" ? (daemon.cause ?? "") : "");
    if (daemon.state === "down") return;
    this.figures(daemon.role === "frontend" ? frontFigures(daemon) : replicaFigures(daemon));
    this.move(daemon.replica?.last);
  }

  /** Pairs of a name and a value; the nodes stay, so that nothing flickers and a selection survives. */
  figures(pairs) {
    while (this.facts.children.length < pairs.length) {
      const pair = element("div");
      pair.append(element("dt"), element("dd"));
      this.facts.append(pair);
    }
    pairs.forEach(([name, value], at) => {
      const [dt, dd] = this.facts.children[at].children;
      say(dt, name);
      say(dd, value);
    });
  }

  move(index) {
    if (index == null) return;
    const step = this.index == null ? 0 : Math.max(0, index - this.index) * TAPE_STEP;
    this.index = index;
    this.offset += Math.min(step, TAPE_MOST);
    this.tape.style.setProperty("--offset", `${-this.offset}px`);
  }
}

function replicaFigures({ replica, lag }) {
  return [
    ["last entry", whole(replica.last)],
    ["committed", whole(replica.committed)],
    ["behind", lag == null ? "–" : whole(lag)],
    ["term", whole(replica.term)],
  ];
}

function frontFigures({ traffic, cache }) {
  const ms = (value) => (value == null ? "–" : `${few(value)} ms`);
  return [
    ["requests/s", few(traffic?.requests_per_s ?? 0)],
    ["p50, p99", `${ms(traffic?.p50_ms)}, ${ms(traffic?.p99_ms)}`],
    ["from memory", cache?.hit_rate == null ? "–" : `${Math.round(cache.hit_rate * 100)} %`],
    ["session", cache ? (cache.session ? `lease ${whole(cache.lease_ms)} ms` : "none") : "no cache"],
  ];
}

function happened(told) {
  for (const { text, bad } of told) {
    const time = element("time", "", new Date().toLocaleTimeString("en-GB"));
    const event = element("li", bad ? "bad" : "");
    event.append(time, ` ${text}`);
    events.prepend(event);
  }
  while (events.children.length > EVENTS_MAX) events.lastElementChild.remove();
}

function sync(list, texts) {
  if (list.children.length === texts.length && texts.every((text, at) => list.children[at].textContent === text)) return;
  list.replaceChildren(...texts.map((text) => element("li", "", text)));
}

/** A text that stays the same is not set again, so nobody is told of it again. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Samples of this tab from before a reload. */
function restored() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]");
    const recent = kept.filter((sample) => seconds() - sample.t < SPAN_S);
    return recent.length > 0 ? [...recent, { t: seconds() }] : [];
  } catch {
    return [];
  }
}

addEventListener("pagehide", () => {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(samples));
  } catch {
    // A browser without storage starts anew.
  }
});

/** One question at a time; none while nobody looks. */
async function watch() {
  for (;;) {
    const start = performance.now();
    if (document.visibilityState === "visible") await ask();
    await new Promise((wake) => setTimeout(wake, Math.max(100, EVERY_MS - (performance.now() - start))));
  }
}

watch();
