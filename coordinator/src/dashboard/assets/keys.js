// Turns and conversations by keys.
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
  const help = document.getElementById("keys");
  if (event.key === "j") toTurn(at + 1);
  else if (event.key === "k") toTurn(at - 1);
  else if (event.key === "?") help.open ? help.close() : help.showModal();
  else document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`)?.click();
});
