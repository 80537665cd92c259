/* A fast OpenAI-compatible upstream: one thread, epoll, HTTP/1.1 keep-alive, on a port the kernel chooses.
 *
 *   mock [-n EVENTS] [-i INTERVAL_MS] [-b EVENTS_PER_WRITE] [-z CONTENT_BYTES]      prints "port N" when it listens
 *
 * A POST that asks for "stream":true gets EVENTS chat.completion.chunk events: EVENTS_PER_WRITE of them leave in one write
 * every INTERVAL_MS (0: as fast as the socket takes them), each stream in a phase of its own. Any other POST gets a
 * completion with CONTENT_BYTES of text, any GET the list of its one model, "mock".
 *
 * Every text delta carries @<16 digits>@, the monotonic clock in microseconds when it was made, strictly increasing: a load
 * generator on the same machine reads latency and loss from it through any gateway that keeps the text.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_FD 65536
#define SLOW_READER_BYTES 262144 /* a stream with this much unsent waits for its reader */

typedef struct {
    char *bytes;
    size_t length, capacity;
} buffer;

typedef struct {
    int fd;
    buffer in, out;
    int streaming, events_left, wants_usage, watches_writable;
    int phase, next, previous; /* its place in the list of streams that are due in the same millisecond; fds, -1: none */
} connection;

static connection *connections[MAX_FD];
static int epoll_fd, streams;
static int event_count = 200, interval_ms = 20, per_write = 1;
static int *due; /* first stream of each phase */
static long long tick;
static buffer completion, models;

static long long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

static void append(buffer *b, const char *bytes, size_t length) {
    if (b->length + length + 1 > b->capacity) {
        b->capacity = (b->length + length + 1) * 2;
        b->bytes = realloc(b->bytes, b->capacity);
        if (!b->bytes) abort();
    }
    memcpy(b->bytes + b->length, bytes, length);
    b->length += length;
    b->bytes[b->length] = 0;
}

static void discard(buffer *b, size_t length) {
    memmove(b->bytes, b->bytes + length, b->length - length);
    b->length -= length;
    b->bytes[b->length] = 0;
}

static void unschedule(connection *c) {
    if (c->phase < 0) return;
    if (c->previous >= 0) connections[c->previous]->next = c->next;
    else due[c->phase] = c->next;
    if (c->next >= 0) connections[c->next]->previous = c->previous;
    c->phase = -1;
}

static void schedule(connection *c, int phase) {
    c->phase = phase;
    c->previous = -1;
    c->next = due[phase];
    if (c->next >= 0) connections[c->next]->previous = c->fd;
    due[phase] = c->fd;
}

static void end_stream(connection *c) {
    if (c->streaming) streams--;
    c->streaming = 0;
    unschedule(c);
}

static void drop(connection *c) {
    end_stream(c);
    connections[c->fd] = NULL;
    close(c->fd);
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

static void watch(connection *c, int operation) {
    struct epoll_event e = {.events = EPOLLIN | (c->watches_writable ? EPOLLOUT : 0), .data.fd = c->fd};
    epoll_ctl(epoll_fd, operation, c->fd, &e);
}

/* 0, or -1 where the connection is dead */
static int send_out(connection *c) {
    size_t sent = 0;
    while (sent < c->out.length) {
        ssize_t n = write(c->fd, c->out.bytes + sent, c->out.length - sent);
        if (n < 0 && errno != EAGAIN) return -1;
        if (n < 0) break;
        sent += (size_t)n;
    }
    if (sent) discard(&c->out, sent);
    int wants = c->out.length > 0;
    if (wants != c->watches_writable) {
        c->watches_writable = wants;
        watch(c, EPOLL_CTL_MOD);
    }
    return 0;
}

static void add_chunk(connection *c, const char *choices_and_rest) {
    static const char head[] = "{\"id\":\"chatcmpl-9f2c1a7e5b3d4c6f8a0b1c2d3e4f5a6b\",\"object\":\"chat.completion.chunk\","
                               "\"created\":1790000000,\"model\":\"mock\",";
    char event[1200], framed[1300];
    int length = snprintf(event, sizeof event, "data: %s%s}\n\n", head, choices_and_rest);
    length = snprintf(framed, sizeof framed, "%x\r\n%s\r\n", (unsigned)length, event);
    append(&c->out, framed, (size_t)length);
}

static void add_delta(connection *c, const char *delta, const char *finish_reason) {
    char rest[700];
    snprintf(rest, sizeof rest, "\"choices\":[{\"index\":0,\"delta\":{%s},\"logprobs\":null,\"finish_reason\":%s}]", delta, finish_reason);
    add_chunk(c, rest);
}

static long long stamp(void) {
    static long long last;
    long long t = now_us();
    return last = t > last ? t : last + 1;
}

static void emit(connection *c) {
    char text[600];
    for (int i = 0; i < per_write && c->events_left > 0; i++, c->events_left--) {
        snprintf(text, sizeof text, "\"content\":\" tok@%016lld@\"", stamp());
        add_delta(c, text, "null");
    }
    if (c->events_left > 0) return;
    add_delta(c, "", "\"stop\"");
    if (c->wants_usage) {
        snprintf(text, sizeof text, "\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":%d,\"total_tokens\":%d}", event_count, event_count + 10);
        add_chunk(c, text);
    }
    static const char done[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    append(&c->out, done, sizeof done - 1);
    end_stream(c);
}

static void start_stream(connection *c, const char *body) {
    static const char head[] = "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                               "cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";
    append(&c->out, head, sizeof head - 1);
    add_delta(c, "\"role\":\"assistant\",\"content\":\"\"", "null");
    c->wants_usage = strstr(body, "\"include_usage\":true") || strstr(body, "\"include_usage\": true");
    c->events_left = event_count;
    c->streaming = 1;
    if (streams++ == 0) tick = now_us() / 1000;
    emit(c);
    while (c->streaming && interval_ms == 0) emit(c);
    if (c->streaming) schedule(c, (int)((tick + interval_ms - 1) % interval_ms));
}

/* Length of the body of the request whose head ends at `body`, or -1 where more is to come. */
static long body_length(const connection *c, const char *body) {
    const char *header = strcasestr(c->in.bytes, "\r\ncontent-length:");
    if (header && header < body) {
        long length = atol(header + 17);
        return (long)(c->in.length - (size_t)(body - c->in.bytes)) >= length ? length : -1;
    }
    header = strcasestr(c->in.bytes, "\r\ntransfer-encoding: chunked");
    if (!header || header >= body) return 0;
    const char *end = strstr(body, "0\r\n\r\n");
    return end ? end + 5 - body : -1;
}

static int answer(connection *c) {
    while (!c->streaming && c->in.length) {
        char *body = strstr(c->in.bytes, "\r\n\r\n");
        if (!body) return 0;
        body += 4;
        long length = body_length(c, body);
        if (length < 0) return 0;
        char after = body[length];
        body[length] = 0;
        int post = !strncmp(c->in.bytes, "POST ", 5);
        if (post && (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true"))) start_stream(c, body);
        else if (post) append(&c->out, completion.bytes, completion.length);
        else append(&c->out, models.bytes, models.length);
        body[length] = after;
        discard(&c->in, (size_t)(body + length - c->in.bytes));
        if (send_out(c) < 0) return -1;
    }
    return 0;
}

/* 0, or -1 where the connection has ended */
static int receive(connection *c) {
    static char bytes[65536];
    ssize_t n = read(c->fd, bytes, sizeof bytes);
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    if (n == 0) return -1;
    append(&c->in, bytes, (size_t)n);
    return answer(c);
}

static void accept_all(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connection *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        c->phase = -1;
        connections[fd] = c;
        watch(c, EPOLL_CTL_ADD);
    }
}

static void emit_due(void) {
    if (!streams || !interval_ms) return;
    for (long long t = now_us() / 1000; tick < t; tick++) {
        int fd = due[tick % interval_ms];
        while (fd >= 0) {
            connection *c = connections[fd];
            fd = c->next;
            if (c->out.length < SLOW_READER_BYTES) emit(c);
            if (send_out(c) < 0 || (!c->streaming && answer(c) < 0)) drop(c);
        }
    }
}

static void prepare(buffer *b, const char *json) {
    char head[200];
    int length = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nserver: mock\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", strlen(json));
    append(b, head, (size_t)length);
    append(b, json, strlen(json));
}

static void prepare_answers(int content_bytes) {
    char *json = malloc((size_t)content_bytes + 1000), *p = json;
    if (!json) abort();
    p += sprintf(p, "{\"id\":\"chatcmpl-9f2c1a7e5b3d4c6f8a0b1c2d3e4f5a6b\",\"object\":\"chat.completion\",\"created\":1790000000,"
                    "\"model\":\"mock\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"");
    for (int i = 0; i < content_bytes; i++) *p++ = i % 6 == 5 ? ' ' : (char)('a' + i % 26);
    sprintf(p, "\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
               "\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":50,\"total_tokens\":60}}");
    prepare(&completion, json);
    free(json);
    prepare(&models, "{\"object\":\"list\",\"data\":[{\"id\":\"mock\",\"object\":\"model\",\"created\":1790000000,\"owned_by\":\"mock\"}]}");
}

static int listen_anywhere(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 8192) || getsockname(listener, (void *)&address, &size)) {
        perror("mock: listen");
        exit(1);
    }
    printf("port %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv) {
    int option, content_bytes = 200;
    while ((option = getopt(argc, argv, "n:i:b:z:")) != -1) switch (option) {
        case 'n': event_count = atoi(optarg); break;
        case 'i': interval_ms = atoi(optarg); break;
        case 'b': per_write = atoi(optarg); break;
        case 'z': content_bytes = atoi(optarg); break;
        default: return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prepare_answers(content_bytes);
    due = malloc(sizeof *due * (size_t)(interval_ms + 1));
    if (!due) abort();
    for (int i = 0; i <= interval_ms; i++) due[i] = -1;
    int listener = listen_anywhere();
    epoll_fd = epoll_create1(0);
    struct epoll_event listening = {.events = EPOLLIN, .data.fd = listener}, ready[512];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        int n = epoll_wait(epoll_fd, ready, 512, streams && interval_ms ? 1 : -1);
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            connection *c = connections[fd];
            if (fd == listener) accept_all(listener);
            else if (c && ((ready[i].events & ~(unsigned)EPOLLOUT && receive(c) < 0) || (ready[i].events & EPOLLOUT && send_out(c) < 0))) drop(c);
        }
        emit_due();
    }
}
