// The line in the timeline follows the player; a click into the timeline plays from there. Media events do not bubble,
// so they are caught on their way down.
document.addEventListener("timeupdate", ({ target }) => {
  target.closest(".heard")?.style.setProperty("--played", target.currentTime / target.duration);
}, true);
document.addEventListener("play", ({ target }) => {
  for (const other of document.querySelectorAll(".heard audio")) if (other !== target) other.pause();
}, true);
document.addEventListener("click", ({ target, clientX }) => {
  const strip = target.closest(".strip");
  if (!strip) return;
  const audio = strip.closest(".heard").querySelector("audio"), { left, width } = strip.getBoundingClientRect();
  audio.currentTime = audio.duration * (clientX - left) / width;
  audio.play().catch(() => {});  // the other player may be started before it begins
});
