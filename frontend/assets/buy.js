// Buys without leaving the page. The form works without this; what this adds is an answer when there is none: a
// connection that breaks, or an outcome that nobody knows, is asked for again with the same key.
//
// A key is given up only for an answer that tells what became of it. After any other answer, and after none, the next
// press sends the same request with the same key, also when the page was loaded again meanwhile: a new key would be
// another order.

const form = document.getElementById("buy");
const outcome = document.getElementById("outcome");
// Longer than the front end tries: it answers within its deadline.
const LIMIT_MS = 15_000;
// Problems whose key is decided for good: no request with it sells any more. `view.rs` has the same list.
const DECIDED = ["out-of-stock", "unknown-book", "key-reused"];
// What the API may answer, beside 4xx, to a buy that was not done.
const NOT_DONE = [503, 507];

let underWay = false;
// A press may have placed the order that the form's key stands for.
let unknown = false;

if (form && outcome) {
  resume();
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
}

async function send() {
  if (underWay) return;
  underWay = true;
  const button = form.querySelector("button");
  button.setAttribute("aria-disabled", "true");
  hold();
  try {
    tell(...shown(await ask()));
  } finally {
    underWay = false;
    button.removeAttribute("aria-disabled");
  }
}

/** The store's answer, or nothing if none came. */
async function ask() {
  try {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: {
        accept: "application/json",
        "content-type": "application/json",
        "idempotency-key": form.elements.key.value,
      },
      body: JSON.stringify({ quantity: Number(form.elements.quantity.value) }),
      signal: AbortSignal.timeout(LIMIT_MS),
    });
    return { status: answer.status, says: await answer.json() };
  } catch {
    return { status: 0, says: {} };
  }
}

/**
 * What is told of an answer, and what it makes of the key: "settled", its outcome is told; "open", the same request is
 * to be sent again; "undone", no request with it has done anything, so the next may be for another number of copies.
 */
function shown({ status, says }) {
  if (status === 200 && says?.order) {
    left(says.stock);
    const copies = says.quantity === 1 ? "1 copy" : `${says.quantity} copies`;
    return ["done", [["Order ", link(`/orders/${says.order}?position=${says.position}`, says.order), ` is placed: ${copies}.`]], "settled"];
  }
  // Only the store itself answers with a problem of a kind that it lists; what a proxy makes up says nothing of the order.
  const kind = /^\/problems\/([a-z-]+)$/.exec(says?.type ?? "")?.[1];
  if (kind === "out-of-stock") {
    left(says.available);
    const there = says.available === 0 ? "The last copy has just gone." : `Only ${says.available} left.`;
    return ["", [[`Nothing was sold. ${there}`]], "settled"];
  }
  if (DECIDED.includes(kind)) return ["", [[says.detail]], "settled"];
  const undone = kind && ((status >= 400 && status < 500) || NOT_DONE.includes(status));
  unknown ||= !undone;
  if (unknown) {
    return ["", [["No answer came, so nobody knows yet whether the order is placed."], ["Send it again with the same key: it will be placed once."]], "open"];
  }
  if (status === 503) return ["", [["Nothing was sold: the store does not take orders at this moment."]], "open"];
  return ["", [[says.detail ?? "The store could not take this order."]], "undone"];
}

function tell(kind, paragraphs, end) {
  const notice = document.createElement("div");
  notice.className = `notice ${kind}`;
  for (const parts of paragraphs) {
    const paragraph = document.createElement("p");
    paragraph.append(...parts);
    notice.append(paragraph);
  }
  outcome.replaceChildren(notice);
  const button = form.querySelector("button");
  // The key stands for this many copies: another number would be another order.
  form.elements.quantity.readOnly = end === "open";
  button.textContent = end === "open" ? "Try again with the same key" : "Buy";
  if (end !== "open") unknown = false;
  if (!unknown) release();
  if (end === "settled") settle(kind);
}

/** A placed order leaves no button under the pointer: the next order is a choice of its own, with a key of its own. */
function settle(kind) {
  if (kind !== "done") return renew();
  form.hidden = true;
  const another = document.createElement("button");
  another.type = "button";
  another.textContent = "Order more";
  another.addEventListener("click", () => {
    renew();
    outcome.replaceChildren();
    form.hidden = false;
    form.elements.quantity.focus();
  });
  const paragraph = document.createElement("p");
  const key = document.createElement("code");
  key.textContent = form.elements.key.value;
  const note = document.createElement("p");
  note.className = "key";
  note.append("Order key ", key);
  outcome.firstElementChild.append(note);
  paragraph.append(another);
  outcome.append(paragraph);
}

/** Keeps what is about to be sent for this tab, should the page go before the answer comes. */
function hold() {
  const { key, quantity } = form.elements;
  stored((store) => store.setItem(form.action, JSON.stringify({ key: key.value, quantity: quantity.value })));
}

function release() {
  stored((store) => store.removeItem(form.action));
}

/** What an earlier view of this page has sent and got no outcome for is what the next press sends. */
function resume() {
  const held = stored((store) => JSON.parse(store.getItem(form.action)));
  if (!held?.key) return;
  take(held.key);
  form.elements.quantity.value = held.quantity;
  unknown = true;
  tell("", [["You have sent this order before, and nobody has said whether it is placed."], ["Send it again with the same key: it will be placed once."]], "open");
}

/** A browser may keep its store from us: then nothing outlives the page. */
function stored(act) {
  try {
    return act(sessionStorage);
  } catch {
    return null;
  }
}

/** A new key: random, as crypto.randomUUID makes it, which browsers keep to secure origins. */
function renew() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  take(hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5"));
}

function take(key) {
  form.elements.key.value = key;
  document.getElementById("key").textContent = key;
}

function left(copies) {
  const stock = document.getElementById("stock");
  stock.textContent = copies === 0 ? "Sold out" : copies < 10 ? `Only ${copies} left` : `${copies.toLocaleString("en")} in stock`;
  stock.classList.toggle("gone", copies === 0);
}

function link(href, text) {
  const anchor = document.createElement("a");
  anchor.href = href;
  anchor.textContent = text;
  return anchor;
}
