import assert from "node:assert/strict";
import test from "node:test";
import { app } from "./app.js";

test("a product has a price", async () => {
  const response = await app.request("/api/products/2");
  assert.deepEqual(await response.json(), { id: 2, name: "whiteout", cents: 99, price: "€0.99" });
});

test("what is not there is not found", async () => {
  assert.equal((await app.request("/api/products/7")).status, 404);
});
