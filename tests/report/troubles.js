// What is out of sight at the sides or hard to read; what scrolls on its own may be.
() => {
  const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
  const linear = (share) => share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  const light = (colour) => [0.2126, 0.7152, 0.0722]
    .reduce((sum, weight, i) => sum + weight * linear(colour[i] / 255), 0);
  const behind = (node) => {
    const colour = numbers(getComputedStyle(node).backgroundColor);
    return colour.length < 4 || colour[3] === 1 ? colour : behind(node.parentElement);
  };
  const troubles = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((of) => of.nodeType === 3 && of.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".unseen, .skip, script")) continue;
    const box = node.getBoundingClientRect();
    const name = `${node.tagName} ${node.className}: ${node.textContent.slice(0, 40)}`;
    if (!node.closest("nav, .scroll, .entries") && (box.left < 0 || box.right > innerWidth + 1))
      troubles.push("outside: " + name);
    const [one, two] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < 4.5) troubles.push(`contrast ${contrast.toFixed(1)}: ${name}`);
  }
  return troubles;
}
