/** Whether the slow tests are wanted as well, and deeper bounds of the others: `npm run test:long`. */
export const long = process.env.QUARTERMASTER_LONG === "1";
