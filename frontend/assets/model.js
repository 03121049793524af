// What GET /cluster/status says, made ready to be shown. No DOM and no clock in here: times are arguments.
//
// Fields that a daemon of another release does not send are taken as empty, as docs/http-api.md wants it.

export const ROLES = ["frontend", "catalog", "order"];
const WORDS = { frontend: "Front end", catalog: "Catalog", order: "Orders" };
const TITLES = { frontend: "Front ends", catalog: "Catalog", order: "Order book" };

/** The whole picture: a section per role, and what is wrong. `known` remembers who unreachable daemons are. */
export function picture(status, known) {
  const daemons = (status.daemons ?? []).map((asked) => daemon(asked, known));
  name(daemons);
  const groups = status.groups ?? [];
  return {
    healthy: status.healthy === true,
    causes: status.causes ?? [],
    conservation: status.conservation ?? null,
    sections: ROLES.map((role) => section(role, daemons, groups)).filter((section) => section.daemons.length > 0),
    daemons,
  };
}

function section(role, all, groups) {
  const daemons = all.filter((daemon) => daemon.role === role);
  const own = groups.filter((group) => group.role === role);
  return { role, title: TITLES[role], daemons, line: role === "frontend" ? "" : groupLine(own, daemons), down: own.some((group) => !group.available) };
}

function groupLine(groups, daemons) {
  if (groups.length > 1) return `${groups.length} groups of their own`;
  const [group] = groups;
  if (!group) return "";
  const primary = daemons.find((daemon) => daemon.id === group.primary);
  if (!group.available) return group.primary == null ? "no primary" : "no majority";
  return `${primary?.name ?? group.primary} is primary in term ${group.term}, ${group.taking_part} of ${group.members} take part`;
}

/** A name that two daemons have names neither of them. */
function name(daemons) {
  const count = new Map();
  for (const { name } of daemons) count.set(name, (count.get(name) ?? 0) + 1);
  for (const daemon of daemons) {
    if (daemon.name && count.get(daemon.name) === 1) continue;
    daemon.name = daemon.id == null ? daemon.address : `${WORDS[daemon.role] ?? daemon.role} ${daemon.id}`;
  }
}

function daemon(asked, known) {
  const { role = "", address = "", status } = asked;
  if (status) known.set(address, { id: status.id, name: status.name });
  const replica = status?.replica ?? null;
  const { id = null, name = "" } = known.get(address) ?? {};
  return {
    role,
    address,
    id,
    name,
    state: state(asked, replica),
    cause: asked.cause ?? status?.cause ?? replica?.waiting_for ?? null,
    lag: asked.lag ?? null,
    replica,
    traffic: status?.traffic ?? null,
    cache: status?.cache ?? null,
    sessions: status?.catalog?.sessions?.filter((session) => session.open).length ?? null,
    outbox: status?.catalog?.outbox ?? null,
    sold: status?.catalog?.copies_sold ?? null,
    version: status?.version ?? "",
    uptime: status?.uptime_s ?? null,
  };
}

/** primary, backup, candidate, waiting, serving, unready, down. */
function state(asked, replica) {
  if (!asked.reachable || !asked.status) return "down";
  if (replica && replica.state !== "primary" && replica.state !== "backup") return replica.state || "waiting";
  if (!asked.status.ready) return "unready";
  return replica ? replica.state : "serving";
}

export const STATE_WORDS = {
  primary: "Primary",
  backup: "Backup",
  candidate: "Election",
  waiting: "Waiting",
  serving: "Serving",
  unready: "Not ready",
  down: "No answer",
};

/** What changed from one picture to the next, a sentence each. */
export function changes(before, after) {
  if (!before) return [];
  const told = [];
  const old = new Map(before.daemons.map((daemon) => [daemon.address, daemon]));
  for (const daemon of after.daemons) {
    const was = old.get(daemon.address);
    if (!was || was.state === daemon.state) continue;
    if (daemon.state === "down") told.push({ bad: true, text: `${daemon.name} stopped answering` });
    else if (daemon.state === "primary") told.push({ text: `${daemon.name} is the new primary, term ${daemon.replica.term}` });
    else if (was.state === "down") told.push({ text: `${daemon.name} is back: ${STATE_WORDS[daemon.state].toLowerCase()}` });
    else if (daemon.state === "backup" && was.state === "primary") told.push({ text: `${daemon.name} is a backup now` });
    else if (daemon.state === "unready") told.push({ bad: true, text: `${daemon.name} is not ready${daemon.cause ? `: ${daemon.cause}` : ""}` });
  }
  return told;
}

/** What is plotted: one number per series, null where nobody knows. Rates are those since `before`. */
export function sample(before, after, seconds) {
  const by = (role) => after.daemons.filter((daemon) => daemon.role === role && daemon.state !== "down");
  const fronts = by("frontend");
  const worst = (values) => values.reduce((worst, value) => (value == null ? worst : Math.max(worst ?? 0, value)), null);
  const hits = worst(fronts.map((front) => front.cache?.hit_rate));
  return {
    requests: rate(before, after, seconds, (daemon) => (daemon.role === "frontend" ? daemon.traffic?.requests_total : null), sum),
    p50: worst(fronts.map((front) => front.traffic?.p50_ms)),
    p99: worst(fronts.map((front) => front.traffic?.p99_ms)),
    hits: hits == null ? null : hits * 100,
    sales: rate(before, after, seconds, (daemon) => daemon.sold, most),
    catalog: rate(before, after, seconds, (daemon) => (daemon.role === "catalog" ? daemon.replica?.committed : null), most),
    order: rate(before, after, seconds, (daemon) => (daemon.role === "order" ? daemon.replica?.committed : null), most),
    catalogLag: worst(by("catalog").map((daemon) => daemon.lag)),
    orderLag: worst(by("order").map((daemon) => daemon.lag)),
  };
}

const sum = (one, other) => one + other;
const most = (one, other) => Math.max(one, other);

/** How fast a counter grows over all daemons. One that went back (a restart) counts as standing still. */
function rate(before, after, seconds, counter, join) {
  if (!before || seconds <= 0) return null;
  const old = new Map(before.daemons.map((daemon) => [daemon.address, counter(daemon)]));
  const grown = after.daemons
    .map((daemon) => [old.get(daemon.address), counter(daemon)])
    .filter(([was, is]) => was != null && is != null)
    .map(([was, is]) => Math.max(0, is - was));
  return grown.length === 0 ? null : grown.reduce(join) / seconds;
}
