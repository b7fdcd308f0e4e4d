() => {
  // Gives a text to the pictures for which gradio has no way to give one: those of a slider that
  // compares two. Their block's label says what they are.
  const name = () => {
    for (const image of document.querySelectorAll(".block img:not([alt]), .block img[alt='']")) {
      const label = image.closest(".block")?.querySelector("label");
      image.alt = label?.innerText.trim() || "picture";
    }
  };
  new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
  name();
}
