// The proxy of Directus's guide as a server of its own, on Express: a caller with a token reaches the upstream with the account's
// credentials, others get 403. Without Directus around it, which would cost more.
import express from 'express';

const { PORT, ADMIN_TOKEN, TWILIO_ACCOUNT_SID, TWILIO_AUTH_TOKEN, TWILIO_API_BASE } = process.env;
const basic = Buffer.from(`${TWILIO_ACCOUNT_SID}:${TWILIO_AUTH_TOKEN}`).toString('base64');
const headers = { Authorization: `Basic ${basic}` };

const router = express.Router();
router.get('/*path', async (req, res) => {
  if (req.get('authorization') !== `Bearer ${ADMIN_TOKEN}`) {
    res.status(403).send("You don't have permission to access this.");
    return;
  }
  try {
    const answer = await fetch(TWILIO_API_BASE + req.url, { headers });
    if (answer.ok) res.json(await answer.json());
    else res.status(answer.status).send(answer.statusText);
  } catch (error) {
    res.status(500).send(error.message);
  }
});

const app = express();
app.disable('x-powered-by');
app.use('/twilio', router);
app.listen(Number(PORT), '127.0.0.1');
