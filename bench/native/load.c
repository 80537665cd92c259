/* A load generator: one thread, epoll, HTTP/1.1, every connection in a closed loop.
 *
 *   load -u PORT -B BODY_FILE [-m request|stream] [-P PATH] [-k API_KEY] [-c CONNECTIONS] [-r RAMP_MS]
 *        [-w WARM_MS] [-d WINDOW_MS] [-e EVENTS] [-t]
 *
 * It opens the connections evenly over RAMP_MS, says "begin" when WARM_MS more have passed, "end" WINDOW_MS later, then one
 * line of JSON, and leaves when its standard input closes: whoever runs it reads the server's CPU time and memory at these
 * words, while every connection is still open.
 *
 * -t: together. All connections ask at once, and again at once when all of them have been answered. The window lasts until that
 * has happened once, or a minute.
 *
 * request: one request after another. stream: each connection starts its next stream when one ends; events (data lines but
 * [DONE]) are counted, and where they carry @<16 digits>@, the clock when they were made, so is their age. A stream that ends
 * without [DONE], or with a number of stamped events other than EVENTS (absent: other than the first stream's number of
 * events), is counted as broken.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_LENGTH 18
#define LINE_KEPT 2048 /* a longer data line still counts; a stamp past this is not seen */
#define HEAD_LIMIT 8192
#define MINUTE_US 60000000LL

typedef struct {
    long long *values;
    size_t count, capacity;
} samples;

typedef struct {
    int fd, connected, waiting, dead;
    long long asked_at, last_stamp;
    char head[HEAD_LIMIT];
    size_t head_length;
    int in_body, is_chunked, ok;
    long long body_left;                                             /* of the body, or of the chunk */
    enum { SIZE, SIZE_END, DATA, DATA_END, LAST, LAST_END } chunked; /* what of the chunked body comes next */
    char line[LINE_KEPT];
    size_t line_length;
    long events, stamped;
    int ended_well;
} connection;

static int port, streaming, together, idle, epoll_fd;
static char *request;
static size_t request_length;
static int measuring;
static long completed, events, stamped, errors, broken, dead_connections, expected_events, bytes;
static char first_error[120];
static samples latency, first_event;
static connection *all;
static int count = 16;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void sample(samples *s, long long value) {
    if (!measuring) return;
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? s->capacity * 2 : 65536;
        s->values = realloc(s->values, s->capacity * sizeof *s->values);
        if (!s->values) abort();
    }
    s->values[s->count++] = value;
}

static int compare(const void *a, const void *b) {
    long long x = *(const long long *)a, y = *(const long long *)b;
    return (x > y) - (x < y);
}

static long long quantile(const samples *sorted, double q) {
    return sorted->count ? sorted->values[(size_t)(q * (double)(sorted->count - 1))] : 0;
}

static void fail(const char *why, size_t length) {
    errors++;
    if (first_error[0]) return;
    snprintf(first_error, sizeof first_error, "%.*s", (int)length, why);
    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
}

static void open_connection(connection *c);
static void next(connection *c);

static void give_up(connection *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->dead = 1;
    dead_connections++;
}

static void reopen(connection *c) {
    if (together && !c->waiting) idle--; /* it will be counted again when it is up */
    close(c->fd);
    c->fd = -1;
    open_connection(c);
}

static void ask(connection *c) {
    c->head_length = c->line_length = 0;
    c->in_body = c->is_chunked = c->ok = c->ended_well = 0;
    c->events = c->stamped = 0;
    c->asked_at = now_us();
    c->waiting = 1;
    if (!c->connected) return;
    if (send(c->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) {
        fail("the request could not be sent", 29);
        reopen(c);
    }
}

/* What a connection does that has nothing to wait for. Together: the last one starts them all */
static void next(connection *c) {
    if (!together) {
        ask(c);
    } else if (++idle == count) {
        idle = 0;
        for (int i = 0; i < count; i++) ask(&all[i]);
    }
}

static void open_connection(connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->connected = 0;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0 || (connect(c->fd, (void *)&address, sizeof address) && errno != EINPROGRESS)) {
        fail(strerror(errno), 100);
        give_up(c);
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
    if (!together) ask(c);
}

static void connection_is_up(connection *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        fail(strerror(error), 100);
        give_up(c);
        return;
    }
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
    c->connected = 1;
    next(c);
}

static void check_stream(const connection *c) {
    long got = c->stamped ? c->stamped : c->events;
    if (!expected_events) expected_events = got;
    if (got != expected_events || !c->ended_well) broken++;
}

static void answered(connection *c) {
    c->waiting = 0;
    if (measuring) completed++;
    if (!streaming) sample(&latency, now_us() - c->asked_at);
    else if (c->ok) check_stream(c);
    next(c);
}

/* Microseconds from the stamp in the line, or -1 where it has none */
static long long read_stamp(const char *line, size_t length) {
    const char *p = line, *end = line + length;
    while ((p = memchr(p, '@', (size_t)(end - p))) && end - p >= STAMP_LENGTH) {
        long long value = 0;
        int digits = 0;
        while (digits < 16 && p[1 + digits] >= '0' && p[1 + digits] <= '9') value = value * 10 + (p[1 + digits++] - '0');
        if (digits == 16 && p[17] == '@') return value;
        p++;
    }
    return -1;
}

static void line_ended(connection *c, long long now) {
    if (c->line_length < 5 || memcmp(c->line, "data:", 5)) return;
    if (c->line_length >= 12 && !memcmp(c->line, "data: [DONE]", 12)) {
        c->ended_well = 1;
        return;
    }
    c->events++;
    if (measuring) events++;
    long long made = read_stamp(c->line, c->line_length);
    if (made <= c->last_stamp) return; /* none, or text repeated at the end of an answer */
    c->last_stamp = made;
    if (c->stamped++ == 0) sample(&first_event, now - c->asked_at);
    if (measuring) stamped++;
    sample(&latency, now - made);
}

static void body_bytes(connection *c, const char *p, size_t n, long long now) {
    if (!streaming) return;
    const char *end = p + n;
    while (p < end) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        size_t length = (size_t)((newline ? newline : end) - p);
        size_t kept = length < LINE_KEPT - c->line_length ? length : LINE_KEPT - c->line_length;
        memcpy(c->line + c->line_length, p, kept);
        c->line_length += kept;
        if (!newline) return;
        line_ended(c, now);
        c->line_length = 0;
        p = newline + 1;
    }
}

/* 1 where the body has ended */
static int chunked_bytes(connection *c, const char *p, size_t n, long long now) {
    for (const char *end = p + n; p < end;) {
        size_t take = (size_t)(end - p);
        if (c->chunked == DATA) {
            if ((long long)take > c->body_left) take = (size_t)c->body_left;
            body_bytes(c, p, take, now);
            c->body_left -= (long long)take;
            p += take;
            if (!c->body_left) c->chunked = DATA_END;
            continue;
        }
        char byte = *p++;
        if (c->chunked == SIZE && byte != '\r') {
            c->body_left = c->body_left * 16 + (byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
        } else if (c->chunked == SIZE) {
            c->chunked = SIZE_END;
        } else if (c->chunked == SIZE_END) {
            c->chunked = c->body_left ? DATA : LAST;
        } else if (c->chunked == DATA_END && byte == '\n') {
            c->chunked = SIZE;
        } else if (c->chunked == LAST) {
            c->chunked = LAST_END;
        } else if (c->chunked == LAST_END) {
            return 1;
        }
    }
    return 0;
}

/* Bytes of the input that belong to the head */
static size_t head_bytes(connection *c, const char *p, size_t n) {
    size_t before = c->head_length, kept = n < HEAD_LIMIT - 1 - before ? n : HEAD_LIMIT - 1 - before;
    memcpy(c->head + before, p, kept);
    c->head_length += kept;
    c->head[c->head_length] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) return n;
    *end = 0;
    c->in_body = 1;
    c->ok = !strncmp(c->head + 8, " 200", 4);
    if (!c->ok) fail(c->head, strcspn(c->head, "\r"));
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->is_chunked = !length && strcasestr(c->head, "\r\ntransfer-encoding: chunked");
    c->body_left = length ? atoll(length + 17) : c->is_chunked ? 0 : -1;
    c->chunked = SIZE;
    return (size_t)(end + 4 - c->head) - before;
}

static void receive(connection *c) {
    static char input[65536];
    ssize_t n = recv(c->fd, input, sizeof input, 0);
    long long now = now_us();
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        int until_close = c->in_body && !c->is_chunked && c->body_left < 0;
        if (until_close) {
            if (streaming && c->ok) check_stream(c);
            if (measuring) completed++;
        } else if (c->waiting) {
            fail("the connection was closed", 25);
        }
        reopen(c);
        return;
    }
    if (measuring) bytes += n;
    const char *p = input, *end = input + n;
    if (!c->in_body) p += head_bytes(c, p, (size_t)n);
    if (!c->in_body) return;
    int ended = 0;
    if (c->is_chunked) {
        ended = chunked_bytes(c, p, (size_t)(end - p), now);
    } else {
        body_bytes(c, p, (size_t)(end - p), now);
        if (c->body_left >= 0) ended = (c->body_left -= end - p) <= 0;
    }
    if (ended) answered(c);
}

static void prepare_request(const char *path, const char *key, const char *body_file) {
    FILE *f = fopen(body_file, "r");
    if (!f) {
        perror(body_file);
        exit(1);
    }
    char *body = malloc(1 << 20);
    request = malloc((1 << 20) + 2000);
    if (!body || !request) abort();
    size_t length = fread(body, 1, 1 << 20, f);
    fclose(f);
    while (length && body[length - 1] == '\n') length--;
    request_length = (size_t)sprintf(request,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"
        "Accept: */*\r\nContent-Length: %zu\r\n\r\n", path, port, key, length);
    memcpy(request + request_length, body, length);
    request_length += length;
    free(body);
}

static void say(const char *word) {
    puts(word);
    fflush(stdout);
}

static void report(double seconds) {
    qsort(latency.values, latency.count, sizeof(long long), compare);
    qsort(first_event.values, first_event.count, sizeof(long long), compare);
    printf("{\"seconds\":%.3f,\"completed\":%ld,\"events\":%ld,\"stamped\":%ld,\"bytes\":%ld,\"errors\":%ld,\"broken\":%ld,"
           "\"dead\":%ld,\"latency_p50_us\":%lld,\"latency_p99_us\":%lld,\"first_event_p50_us\":%lld,\"first_event_p99_us\":%lld,"
           "\"first_events\":%zu,\"first_error\":\"%s\"}\n",
           seconds, completed, events, stamped, bytes, errors, broken, dead_connections, quantile(&latency, .5), quantile(&latency, .99),
           quantile(&first_event, .5), quantile(&first_event, .99), first_event.count, first_error);
    fflush(stdout);
}

int main(int argc, char **argv) {
    const char *path = "/v1/chat/completions", *key = "sk-test", *body_file = NULL;
    int option, ramp_ms = 0, warm_ms = 1000, window_ms = 3000;
    while ((option = getopt(argc, argv, "u:B:m:P:k:c:r:w:d:e:t")) != -1) switch (option) {
        case 'u': port = atoi(optarg); break;
        case 'B': body_file = optarg; break;
        case 'm': streaming = !strcmp(optarg, "stream"); break;
        case 'P': path = optarg; break;
        case 'k': key = optarg; break;
        case 'c': count = atoi(optarg); break;
        case 'r': ramp_ms = atoi(optarg); break;
        case 'w': warm_ms = atoi(optarg); break;
        case 'd': window_ms = atoi(optarg); break;
        case 'e': expected_events = atol(optarg); break;
        case 't': together = 1; break;
        default: return 2;
    }
    if (!port || !body_file) {
        fputs("load: -u PORT and -B BODY_FILE are needed\n", stderr);
        return 2;
    }
    prepare_request(path, key, body_file);
    all = calloc((size_t)count, sizeof *all);
    if (!all) abort();
    epoll_fd = epoll_create1(0);
    struct epoll_event ready[512];
    long long start = now_us(), begin = 0, window_start = 0;
    int opened = 0;
    for (;;) {
        long long now = now_us();
        for (; opened < count && (now - start) * count >= opened * ramp_ms * 1000LL; opened++) open_connection(&all[opened]);
        if (opened == count && !begin) begin = now + warm_ms * 1000LL;
        if (begin && !measuring && now >= begin) {
            say("begin");
            window_start = now;
            measuring = 1;
        }
        if (measuring && now >= window_start + window_ms * 1000LL && (!together || completed >= count || now > window_start + MINUTE_US)) break;
        int n = epoll_wait(epoll_fd, ready, 512, 1);
        for (int i = 0; i < n; i++) {
            connection *c = ready[i].data.ptr;
            if (c->dead) continue;
            if (c->connected) receive(c);
            else connection_is_up(c);
        }
    }
    double seconds = (double)(now_us() - window_start) / 1e6;
    say("end");
    report(seconds);
    while (getchar() != EOF) {}
    return 0;
}
