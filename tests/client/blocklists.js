/** What lists of filters, which the arguments name, block: reads requests from standard input, writes those. */

import { readFileSync } from "node:fs";
import { text } from "node:stream/consumers";

import { FiltersEngine, Request } from "@ghostery/adblocker";

const lists = process.argv.slice(2).map((file) => readFileSync(file, "utf8"));
const engine = FiltersEngine.parse(lists.join("\n"), { debug: true });
const asked = JSON.parse(await text(process.stdin));
const blocked = asked.flatMap((details) => {
  const { match, filter } = engine.match(Request.fromRawDetails(details));
  return match ? [{ ...details, filter: filter.toString() }] : [];
});
console.log(JSON.stringify({ filters: engine.getFilters().networkFilters.length, blocked }));
