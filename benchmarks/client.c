/* The one client of every measurement: libiscsi, asynchronous, a fixed number of commands in flight
 * per session, one thread. It prints one JSON object: what it did, how fast, how late.
 *
 * One rule: it measures or it fails. A command that does not end with GOOD, a session that drops, a
 * disk too small, a time limit passed: a line on stderr and exit code 1, never a figure.
 *
 * usage: client URL write|read random|sequential BLOCK DEPTH SESSIONS SPAN WARM_SECONDS SECONDS SEED
 *        client URL write|read random|sequential BLOCK DEPTH SESSIONS SPAN count=COMMANDS - SEED
 * SPAN: bytes from the disk's beginning that are used. Commands that end in the warm-up are done
 * but not counted. With count=N it stops after N commands instead of after a time.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum { SESSIONS_MAX = 16, DEPTH_MAX = 256, STALL_MS = 60000 };

struct session;

struct slot {                 /* one command in flight, and its buffer */
	struct session *session;
	uint8_t *data;
	uint64_t begun;       /* ns */
};

struct session {
	struct iscsi_context *iscsi;
	int lun;
	uint64_t next;        /* sequential: the next block to use */
	unsigned flying;
	struct slot slots[DEPTH_MAX];
};

static struct session sessions[SESSIONS_MAX];
static bool writing, sequential;
static uint32_t block_bytes, device_block;
static uint64_t blocks;       /* in the span */
static unsigned depth, session_count;
static uint64_t random_state, warm_until, stop_at, count_max, submitted;
static uint64_t completed, last_done, begun;

static uint32_t *latencies;   /* ns, at most 4.29 s each */
static size_t latency_count, latency_room;

static void die(const char *format, ...)
{
	va_list words;
	va_start(words, format);
	vfprintf(stderr, format, words);
	va_end(words);
	fputc('\n', stderr);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t draw(void)    /* xorshift64*: the seed makes every run of a pair the same */
{
	random_state ^= random_state >> 12;
	random_state ^= random_state << 25;
	random_state ^= random_state >> 27;
	return random_state * 2685821657736338717u;
}

static void remember(uint64_t nanoseconds)
{
	if (latency_count == latency_room) {
		latency_room = latency_room ? latency_room * 2 : 1 << 16;
		latencies = realloc(latencies, latency_room * sizeof *latencies);
		if (!latencies)
			die("out of memory");
	}
	latencies[latency_count++] = nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static void submit(struct slot *slot);

static void done(struct iscsi_context *iscsi, int status, void *data, void *private)
{
	struct slot *slot = private;
	struct scsi_task *task = data;
	uint64_t at = now();

	if (status != SCSI_STATUS_GOOD)
		die("a command ended with status %d: %s", status, iscsi_get_error(iscsi));
	if (!writing && task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL)
		die("a read came back with a residual of %zu bytes", task->residual);
	scsi_free_scsi_task(task);
	slot->session->flying--;
	completed++;
	if (count_max || at >= warm_until)
		remember(at - slot->begun);
	last_done = at;
	if (count_max ? submitted < count_max : at < stop_at)
		submit(slot);
}

static void submit(struct slot *slot)
{
	struct session *session = slot->session;
	uint64_t block = sequential ? session->next++ % blocks : draw() % blocks;
	uint64_t lba = block * (block_bytes / device_block);
	struct scsi_task *task;

	slot->begun = now();
	if (writing) {
		/* No two writes alike, and none compressible or zero. */
		memcpy(slot->data, &slot->begun, sizeof slot->begun);
		task = iscsi_write16_task(session->iscsi, session->lun, lba, slot->data, block_bytes,
					  device_block, 0, 0, 0, 0, 0, done, slot);
	} else {
		task = iscsi_read16_task(session->iscsi, session->lun, lba, block_bytes,
					 device_block, 0, 0, 0, 0, 0, done, slot);
		if (task)
			scsi_task_add_data_in_buffer(task, (int)block_bytes, slot->data);
	}
	if (!task)
		die("cannot queue a command: %s", iscsi_get_error(session->iscsi));
	session->flying++;
	submitted++;
}

static void log_in(struct session *session, const char *text)
{
	struct iscsi_url *url;
	struct scsi_task *task;
	struct scsi_readcapacity16 *capacity;

	session->iscsi = iscsi_create_context("iqn.2026-11.org.example:benchmark");
	if (!session->iscsi)
		die("no context");
	url = iscsi_parse_full_url(session->iscsi, text);
	if (!url)
		die("%s: %s", text, iscsi_get_error(session->iscsi));
	session->lun = url->lun;
	iscsi_set_session_type(session->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(session->iscsi, ISCSI_HEADER_DIGEST_NONE);
	iscsi_set_targetname(session->iscsi, url->target);
	iscsi_set_noautoreconnect(session->iscsi, 1);
	if (iscsi_full_connect_sync(session->iscsi, url->portal, url->lun))
		die("%s: %s", text, iscsi_get_error(session->iscsi));
	iscsi_destroy_url(url);

	task = iscsi_readcapacity16_sync(session->iscsi, session->lun);
	if (!task || task->status != SCSI_STATUS_GOOD)
		die("READ CAPACITY: %s", iscsi_get_error(session->iscsi));
	capacity = scsi_datain_unmarshall(task);
	if (!capacity)
		die("READ CAPACITY: no data");
	device_block = capacity->block_length;
	if (block_bytes % device_block)
		die("blocks of %" PRIu32 " do not fit a disk of %" PRIu32, block_bytes, device_block);
	if ((capacity->returned_lba + 1) * device_block < blocks * block_bytes)
		die("the disk is smaller than the span");
	scsi_free_scsi_task(task);
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return x < y ? -1 : x > y;
}

static double percentile_us(double fraction)
{
	size_t index = (size_t)(fraction * (double)latency_count);
	return latencies[index < latency_count ? index : latency_count - 1] / 1e3;
}

static void check_words(int argc, char **argv)
{
	if (argc != 11)
		die("usage: client URL write|read random|sequential BLOCK DEPTH SESSIONS SPAN "
		    "WARM_SECONDS|count=COMMANDS SECONDS SEED");
	writing = !strcmp(argv[2], "write");
	sequential = !strcmp(argv[3], "sequential");
	if ((!writing && strcmp(argv[2], "read")) || (!sequential && strcmp(argv[3], "random")))
		die("write or read, random or sequential; not %s %s", argv[2], argv[3]);
	block_bytes = (uint32_t)strtoul(argv[4], NULL, 10);
	depth = (unsigned)strtoul(argv[5], NULL, 10);
	session_count = (unsigned)strtoul(argv[6], NULL, 10);
	if (block_bytes < 512 || !depth || depth > DEPTH_MAX || !session_count ||
	    session_count > SESSIONS_MAX)
		die("block size, depth or sessions out of range");
	blocks = strtoull(argv[7], NULL, 10) / block_bytes;
	if (blocks < session_count)
		die("the span holds too few blocks");
	random_state = strtoull(argv[10], NULL, 10) * 2 + 1;
}

int main(int argc, char **argv)
{
	struct pollfd polled[SESSIONS_MAX];
	unsigned flying = 0;

	signal(SIGPIPE, SIG_IGN); /* a session that the target ends is told, not died of */
	check_words(argc, argv);
	for (unsigned s = 0; s < session_count; s++) {
		log_in(&sessions[s], argv[1]);
		sessions[s].next = s * (blocks / session_count);
		for (unsigned d = 0; d < depth; d++) {
			struct slot *slot = &sessions[s].slots[d];
			slot->session = &sessions[s];
			slot->data = malloc(block_bytes);
			if (!slot->data)
				die("out of memory");
			for (uint32_t i = 0; i + 8 <= block_bytes; i += 8) {
				uint64_t word = draw();
				memcpy(slot->data + i, &word, 8);
			}
		}
	}

	begun = now();
	if (!strncmp(argv[8], "count=", 6)) {
		count_max = strtoull(argv[8] + 6, NULL, 10);
		if (!count_max)
			die("no commands to do");
	} else {
		warm_until = begun + (uint64_t)(strtod(argv[8], NULL) * 1e9);
		stop_at = warm_until + (uint64_t)(strtod(argv[9], NULL) * 1e9);
	}
	for (unsigned s = 0; s < session_count; s++)
		for (unsigned d = 0; d < depth; d++)
			if (!count_max || submitted < count_max)
				submit(&sessions[s].slots[d]);

	do {
		for (unsigned s = 0; s < session_count; s++) {
			polled[s].fd = iscsi_get_fd(sessions[s].iscsi);
			polled[s].events = (short)iscsi_which_events(sessions[s].iscsi);
			polled[s].revents = 0;
		}
		int ready = poll(polled, session_count, STALL_MS);
		if (ready < 0 && errno != EINTR)
			die("poll: %s", strerror(errno));
		if (ready == 0)
			die("no answer for %d s", STALL_MS / 1000);
		flying = 0;
		for (unsigned s = 0; s < session_count; s++) {
			if (polled[s].revents &&
			    iscsi_service(sessions[s].iscsi, polled[s].revents) < 0)
				/* libiscsi's text may be an older one: what poll saw is not. */
				die("session %u lost after %" PRIu64 " commands (poll %#x): %s", s,
				    completed, polled[s].revents,
				    iscsi_get_error(sessions[s].iscsi));
			flying += sessions[s].flying;
		}
	} while (flying);

	if (!latency_count)
		die("no command ended in the time measured");
	/* From the end of the warm-up, or the first submission, to the last completion. */
	double seconds = (double)(last_done - (count_max ? begun : warm_until)) / 1e9;
	double rate = (double)latency_count / seconds;
	qsort(latencies, latency_count, sizeof *latencies, by_size);
	printf("{\"commands\": %zu, \"commands_all\": %" PRIu64 ", \"seconds\": %.6f, "
	       "\"seconds_all\": %.6f, \"iops\": %.1f, \"mb_per_s\": %.2f, "
	       "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
	       latency_count, completed, seconds, (double)(last_done - begun) / 1e9, rate,
	       rate * block_bytes / 1e6, percentile_us(0.50), percentile_us(0.99),
	       latencies[latency_count - 1] / 1e3);
	for (unsigned s = 0; s < session_count; s++) {
		iscsi_logout_sync(sessions[s].iscsi);
		iscsi_destroy_context(sessions[s].iscsi);
	}
	return 0;
}
