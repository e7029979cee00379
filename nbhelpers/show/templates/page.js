// What the pages do beside the viewer: Escape closes what is enlarged, and what is folded is printed all the same.
{
  const closed = [];
  window.addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.fold:not([open]), details.plain:not([open])")) {
      fold.fill?.();
      fold.open = true;
      closed.push(fold);
    }
  });
  window.addEventListener("afterprint", () => { for (const fold of closed.splice(0)) fold.open = false; });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") document.activeElement?.blur(); });
}
