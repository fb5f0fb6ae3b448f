"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [NAME, OP, DEVICE, KIND, REASON, VALUE, WEIGHTS, TIME, BROUGHT, WORDS] = data.nodes.length ? [...data.nodes[0].keys()] : [];
  const MOST = 150;
  const by = (id) => document.getElementById(id);
  const [search, device, reason, streamed, rows, count, more] =
    ["search", "device", "reason", "streamed", "rows", "count", "more"].map(by);
  const option = (select, value, text) => {
    const made = document.createElement("option");
    made.value = value;
    made.textContent = text;
    select.append(made);
  };
  data.devices.forEach((name, i) => option(device, String(i), name));
  [...new Set(data.nodes.map((n) => n[KIND]))].sort().forEach((kind) => option(reason, kind, kind));
  const texts = data.nodes.map((n) => [n[NAME], n[OP], n[REASON], data.devices[n[DEVICE]]].join(" ").toLowerCase());
  const cell = (row, text, name) => {
    const made = row.insertCell();
    made.textContent = text;
    if (name) made.dataset.name = name;
    return made;
  };
  const show = (all) => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = data.nodes.filter((n, i) =>
      words.every((w) => texts[i].includes(w)) && (!device.value || n[DEVICE] === Number(device.value)) &&
      (!reason.value || n[KIND] === reason.value) && (!streamed.checked || n[BROUGHT]));
    const shown = all ? kept : kept.slice(0, MOST);
    rows.replaceChildren(...shown.map((n) => {
      const row = document.createElement("tr");
      cell(row, n[NAME]);
      cell(row, n[OP]);
      const badge = document.createElement("i");
      badge.className = "d" + (n[DEVICE] % 8);
      badge.textContent = n[DEVICE];
      cell(row, "").append(badge, " " + data.devices[n[DEVICE]]);
      const details = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = n[REASON];
      details.append(summary, n[WORDS]);
      cell(row, "").append(details);
      cell(row, n[VALUE], "value");
      cell(row, n[WEIGHTS] === "0 B" ? "" : n[WEIGHTS] + (n[BROUGHT] ? ", streamed " + n[BROUGHT] : ""), "weights");
      cell(row, n[TIME], "time");
      return row;
    }));
    count.textContent = `${kept.length} of ${data.nodes.length} nodes` +
      (shown.length < kept.length ? `, the first ${shown.length} shown` : "");
    more.hidden = shown.length === kept.length;
  };
  by("filter").addEventListener("input", () => show(false));
  by("filter").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => show(true));
  show(false);
})();
