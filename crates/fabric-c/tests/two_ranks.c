/* One of two ranks: two_ranks listen | two_ranks call PORT. Each sends the other a message and takes part in sums. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onefold_fabric.h"

enum { TIMEOUT_MS = 20000, N = 100003 };

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "%s: %s\n", what, onefold_last_error());
        exit(1);
    }
}

/* What must fail, and say so. */
static void misuse(void) {
    float x = 0;
    check(onefold_connect(NULL, 10) == NULL && strstr(onefold_last_error(), "address is null"), "null address");
    check(onefold_connect("nowhere", 10) == NULL && strstr(onefold_last_error(), "nowhere"), "no address");
    check(onefold_send(NULL, "x", 1, 10) == -1 && strstr(onefold_last_error(), "link is null"), "null link");
    check(onefold_all_reduce_f32(NULL, &x, 1) == -1 && strstr(onefold_last_error(), "group is null"), "null group");
    check(onefold_group(0, 0, NULL, 10) == NULL && strstr(onefold_last_error(), "rank 0 of 0"), "no ranks");
    check(onefold_port(NULL) == -1, "null listener");
    onefold_close(NULL);
    onefold_group_close(NULL);
    onefold_listener_close(NULL);
}

int main(int argc, char **argv) {
    misuse();
    check(argc >= 2, "arguments");
    int rank = strcmp(argv[1], "listen") != 0;
    onefold_link *link;
    if (rank == 0) {
        onefold_listener *listener = onefold_listen("127.0.0.1:0");
        check(listener != NULL, "listen");
        check(onefold_accept(listener, 1) == NULL, "nobody calls");
        printf("%d\n", onefold_port(listener));
        fflush(stdout);
        link = onefold_accept(listener, TIMEOUT_MS);
        onefold_listener_close(listener);
    } else {
        char address[32];
        snprintf(address, sizeof address, "127.0.0.1:%s", argv[2]);
        link = onefold_connect(address, TIMEOUT_MS);
    }
    check(link != NULL, "link");

    char hello[16], room[16] = {0};
    snprintf(hello, sizeof hello, "from rank %d", rank);
    check(onefold_send(link, NULL, 1, TIMEOUT_MS) == -1 && strstr(onefold_last_error(), "buffer of 1 bytes"), "null bytes");
    check(onefold_send(link, hello, strlen(hello), TIMEOUT_MS) == 0, "send");
    check(onefold_recv(link, room, sizeof room, TIMEOUT_MS) == (int64_t)strlen(hello), "recv");
    check(room[10] == '1' - rank, "the other's words");

    onefold_link *links[2] = {link, link};
    onefold_group_of_ranks *group = onefold_group((uint32_t)rank, 2, links, TIMEOUT_MS);
    check(group != NULL, "group");
    float *x = malloc(N * sizeof *x);
    for (int turn = 0; turn < 3; turn++) {
        for (int i = 0; i < N; i++) x[i] = (float)(i + rank);
        check(onefold_all_reduce_f32(group, x, N) == 0, "all_reduce");
        for (int i = 0; i < N; i++) check(x[i] == (float)(2 * i + 1), "sum");
    }
    check(onefold_all_reduce_f32(group, NULL, 0) == 0, "nothing to sum");
    if (rank == 0) {
        onefold_group_close(group);
    } else { /* the other one is gone, or goes now: the error names it */
        check(onefold_all_reduce_f32(group, x, N) == -1 && strstr(onefold_last_error(), "rank 0"), "a rank that left");
        onefold_group_close(group);
    }
    free(x);
    puts("fine");
    return 0;
}
