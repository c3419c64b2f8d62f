// Pages of something that goes on are told when there is news, fetch themselves, and change where they differ.
let source = null;

const alike = (one, other) => one.nodeName === other.nodeName && one.id === other.id && one.className === other.className;

// Makes `old` the same as `fresh`, and leaves alone what is the same already, what was unfolded, and what is being typed.
function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  let at = old.firstChild;
  for (const node of [...fresh.childNodes]) {
    let same = at;
    while (same && !alike(same, node)) same = same.nextSibling;
    if (!same) {
      old.insertBefore(node, at);
      continue;
    }
    at = without(at, same);
    become(same, node);
    at = same.nextSibling;
  }
  without(at, null);
}

// Removes the nodes from `at` to before `end`, and gives `end`.
function without(at, end) {
  while (at !== end) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
  return end;
}

async function refresh() {
  const answer = await fetch(location.href);
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  become(document.getElementById("main"), page.getElementById("main"));
}

function listen() {
  source?.close();
  source = null;
  const mark = document.querySelector("[data-events]");
  // A browser has few connections for one site: pages that nobody sees leave them to others.
  if (!mark || document.hidden) return;
  source = new EventSource(mark.dataset.events);
  source.onmessage = async ({ data }) => {
    const mark = document.querySelector("[data-events]");
    if (data !== mark?.dataset.state) await refresh().catch(() => {});
    if (!document.querySelector("[data-events]")) source.close();
  };
  // The coordinator is away, or has no place; either may change.
  source.onerror = ({ target }) => target.readyState === EventSource.CLOSED && setTimeout(listen, 5000);
}

document.addEventListener("visibilitychange", listen);
listen();
