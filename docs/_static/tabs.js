// A link into a tab that is not shown opens the tab first.
function openTabOfTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const content = target && target.closest(".sd-tab-content");
  if (!content) return;
  const label = content.previousElementSibling;
  const input = label && document.getElementById(label.getAttribute("for"));
  if (input && !input.checked) label.click();
  target.scrollIntoView();
}
window.addEventListener("hashchange", openTabOfTarget);
window.addEventListener("load", openTabOfTarget);
