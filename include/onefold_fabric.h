/* onefold's links and sums over ranks for programs in C. Link with libonefold_fabric (cargo build --release -p fabric-c).
 *
 * Links over TCP are neither encrypted nor authenticated: use them in a network you trust. A link or group is used by one
 * thread at a time. A function that fails says why in onefold_last_error(); after a failure a link or a group is good for
 * closing only. No call takes longer than its timeout_ms. */
#ifndef ONEFOLD_FABRIC_H
#define ONEFOLD_FABRIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct onefold_listener onefold_listener;
typedef struct onefold_link onefold_link;
typedef struct onefold_group_of_ranks onefold_group_of_ranks;

/* Why the last call of this thread failed. Valid until its next call fails. */
const char *onefold_last_error(void);

/* Waits for peers at "IP:PORT"; port 0 takes a free one. NULL if it fails. */
onefold_listener *onefold_listen(const char *address);
/* The listener's port, or -1. */
int onefold_port(const onefold_listener *listener);
/* The next peer that calls, or NULL. */
onefold_link *onefold_accept(const onefold_listener *listener, uint64_t timeout_ms);
void onefold_listener_close(onefold_listener *listener);

/* Calls a peer at "IP:PORT". NULL if it fails. */
onefold_link *onefold_connect(const char *address, uint64_t timeout_ms);
/* Sends a message of at most 256 MiB. 0, or -1. */
int onefold_send(onefold_link *link, const void *bytes, size_t n_bytes, uint64_t timeout_ms);
/* Receives a message into a buffer of this capacity and returns its length, or -1; a longer message is a failure. */
int64_t onefold_recv(onefold_link *link, void *bytes, size_t capacity, uint64_t timeout_ms);
/* Ends a link; the peer reads what was sent so far. NULL is nothing. */
void onefold_close(onefold_link *link);

/* The group of n_ranks in which this process is rank; all ranks call it. links[r] leads to rank r, its own entry is not looked
 * at. The group owns the links from here on, also if it fails, unless one is NULL or the ranks do not fit. timeout_ms is
 * what each sum may take. NULL if it fails. */
onefold_group_of_ranks *onefold_group(uint32_t rank, uint32_t n_ranks, onefold_link *const *links, uint64_t timeout_ms);
/* x becomes the sum of all ranks' x, the same bits on every rank; all of them call it with the same n. 0, or -1. */
int onefold_all_reduce_f32(onefold_group_of_ranks *group, float *x, size_t n);
/* Ends a group and its links. NULL is nothing. */
void onefold_group_close(onefold_group_of_ranks *group);

#ifdef __cplusplus
}
#endif

#endif
