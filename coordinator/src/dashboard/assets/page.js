// Turns and conversations by keys, and pages of a running run that keep up with it. Everything else works without.
let at = (parseInt(location.hash.slice("#turn-".length), 10) || 0) - 1;

function toTurn(next) {
  const turns = document.querySelectorAll(".turn");
  if (next < 0 || next >= turns.length) return;
  at = next;
  turns[at].focus({ preventScroll: true });
  turns[at].scrollIntoView({ block: "start" });
  history.replaceState(null, "", "#" + turns[at].id);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "j") toTurn(at + 1);
  else if (event.key === "k") toTurn(at - 1);
  else document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`)?.click();
});

async function keepUp(mark) {
  try {
    const answer = await fetch(mark.dataset.pulse);
    // Not while somebody types.
    const busy = document.activeElement?.closest("input, textarea, select");
    if (!busy && answer.ok && (await answer.text()) !== mark.dataset.state) {
      const page = await fetch(location.href);
      const fresh = new DOMParser().parseFromString(await page.text(), "text/html");
      document.getElementById("main").replaceWith(fresh.getElementById("main"));
    }
  } catch {
    // The coordinator is away; it may come back.
  }
  const next = document.querySelector("[data-pulse]");
  if (next) setTimeout(keepUp, 2000, next);
}

const mark = document.querySelector("[data-pulse]");
if (mark) setTimeout(keepUp, 2000, mark);
