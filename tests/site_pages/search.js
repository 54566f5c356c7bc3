// Ask the site's own search: node search.js SITE QUESTION... prints the addresses found for each question, best first.
const fs = require("fs"), path = require("path"), vm = require("vm");
const [site, ...questions] = process.argv.slice(2);
const workers = path.join(site, "assets/javascripts/workers");
const file = fs.readdirSync(workers).find((name) => name.startsWith("search.") && name.endsWith(".js"));
const index = JSON.parse(fs.readFileSync(path.join(site, "search/search_index.json"), "utf8"));
const answers = [];
const warnings = [];
const worker = { listeners: [], addEventListener: (_, listener) => worker.listeners.push(listener), setTimeout };
worker.console = { ...console, warn: (message) => warnings.push(message) };
worker.self = worker;
worker.postMessage = (message) => answers.push(message);
worker.importScripts = () => { throw new Error("the search must not need another script"); };
vm.runInNewContext(fs.readFileSync(path.join(workers, file), "utf8"), worker);
const send = async (data) => { for (const listener of worker.listeners) await listener({ data }); };
(async () => {
  await send({ type: 0, data: { ...index, options: { suggest: false } } });
  const found = {};
  for (const question of questions) {
    answers.length = 0;
    await send({ type: 2, data: question });
    await new Promise((done) => setTimeout(done, 0));
    const result = answers.find((answer) => answer.type === 3);
    if (warnings.length) throw new Error(warnings.join("\n"));  // after an error the search says that it found nothing
    found[question] = result.data.items.map((group) => group[0].location.split("#")[0]);
  }
  console.log(JSON.stringify(found));
})();
