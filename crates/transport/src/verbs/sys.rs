//! The verbs library's types, as far as they are used, as Linux's rdma-core lays them out. Apple's librdma offers the same
//! interface without the parts that Thunderbolt has not; that the fields used here lie in the same places there is an
//! assumption that no Mac has confirmed yet (docs/mac-field-test.md). Knows layouts and numbers, calls nothing.

use std::ffi::{c_int, c_void};

/// The library's name.
pub(super) const LIBRARY: &str = if cfg!(target_os = "macos") { "librdma.dylib" } else { "libibverbs.so.1" };

/// Entries of a context's table of operations.
pub(super) const N_OPS: usize = 32;
/// Where in the table the operations are that are no symbols of the library.
pub(super) const OP_POLL_CQ: usize = 11;
pub(super) const OP_POST_SEND: usize = 25;
pub(super) const OP_POST_RECV: usize = 26;

pub(super) const QP_TYPE_UC: u32 = 3;
pub(super) const STATE_INIT: u32 = 1;
pub(super) const STATE_RTR: u32 = 2;
pub(super) const STATE_RTS: u32 = 3;
pub(super) const ACCESS_LOCAL_WRITE: c_int = 1;
pub(super) const OPCODE_SEND: u32 = 2;
pub(super) const SEND_SIGNALED: u32 = 2;
pub(super) const STATUS_SUCCESS: u32 = 0;

/// Which fields of [`QpAttr`] a change of state sets.
pub(super) const MASK_INIT: c_int = QP_STATE | QP_ACCESS_FLAGS | QP_PKEY_INDEX | QP_PORT;
pub(super) const MASK_RTR: c_int = QP_STATE | QP_AV | QP_PATH_MTU | QP_RQ_PSN | QP_DEST_QPN;
pub(super) const MASK_RTS: c_int = QP_STATE | QP_SQ_PSN;
const QP_STATE: c_int = 1;
const QP_ACCESS_FLAGS: c_int = 1 << 3;
const QP_PKEY_INDEX: c_int = 1 << 4;
const QP_PORT: c_int = 1 << 5;
const QP_AV: c_int = 1 << 7;
const QP_PATH_MTU: c_int = 1 << 8;
const QP_RQ_PSN: c_int = 1 << 12;
const QP_SQ_PSN: c_int = 1 << 16;
const QP_DEST_QPN: c_int = 1 << 20;

/// A device in the library's list.
#[repr(C)]
pub(super) struct Device([u8; 0]);

/// A protection domain.
#[repr(C)]
#[derive(Default)]
pub(super) struct Pd([u8; 0]);

/// A completion queue.
#[repr(C)]
#[derive(Default)]
pub(super) struct Cq([u8; 0]);

/// An open device; there are more fields behind these.
#[repr(C)]
pub(super) struct Context {
    pub(super) device: *mut Device,
    pub(super) ops: [*const c_void; N_OPS],
}

/// A queue pair; there are more fields behind these.
#[repr(C)]
pub(super) struct Qp {
    pub(super) context: *mut Context,
    pub(super) qp_context: *mut c_void,
    pub(super) pd: *mut Pd,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) handle: u32,
    pub(super) number: u32,
}

/// A registered region; there are more fields behind these.
#[repr(C)]
pub(super) struct Mr {
    pub(super) context: *mut Context,
    pub(super) pd: *mut Pd,
    pub(super) addr: *mut c_void,
    pub(super) length: usize,
    pub(super) handle: u32,
    pub(super) lkey: u32,
}

/// A port's address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
pub(super) struct Gid(pub(super) [u8; 16]);

/// The way to a peer's port.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct AhAttr {
    pub(super) route: GlobalRoute,
    pub(super) dlid: u16,
    pub(super) sl: u8,
    pub(super) src_path_bits: u8,
    pub(super) static_rate: u8,
    pub(super) is_global: u8,
    pub(super) port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct GlobalRoute {
    pub(super) dgid: Gid,
    pub(super) flow_label: u32,
    pub(super) sgid_index: u8,
    pub(super) hop_limit: u8,
    pub(super) traffic_class: u8,
}

/// What a queue pair can hold.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpCap {
    pub(super) max_send_wr: u32,
    pub(super) max_recv_wr: u32,
    pub(super) max_send_sge: u32,
    pub(super) max_recv_sge: u32,
    pub(super) max_inline_data: u32,
}

/// What a queue pair is made with.
#[repr(C)]
pub(super) struct QpInitAttr {
    pub(super) qp_context: *mut c_void,
    pub(super) send_cq: *mut Cq,
    pub(super) recv_cq: *mut Cq,
    pub(super) srq: *mut c_void,
    pub(super) cap: QpCap,
    pub(super) qp_type: u32,
    pub(super) sq_sig_all: c_int,
}

/// What a change of a queue pair's state sets, as its mask says.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct QpAttr {
    pub(super) state: u32,
    pub(super) cur_state: u32,
    pub(super) path_mtu: u32,
    pub(super) path_mig_state: u32,
    pub(super) qkey: u32,
    pub(super) rq_psn: u32,
    pub(super) sq_psn: u32,
    pub(super) dest_qp_num: u32,
    pub(super) access_flags: c_int,
    pub(super) cap: QpCap,
    pub(super) ah: AhAttr,
    pub(super) alt_ah: AhAttr,
    pub(super) pkey_index: u16,
    pub(super) alt_pkey_index: u16,
    pub(super) en_sqd_async_notify: u8,
    pub(super) sq_draining: u8,
    pub(super) max_rd_atomic: u8,
    pub(super) max_dest_rd_atomic: u8,
    pub(super) min_rnr_timer: u8,
    pub(super) port_num: u8,
    pub(super) timeout: u8,
    pub(super) retry_cnt: u8,
    pub(super) rnr_retry: u8,
    pub(super) alt_port_num: u8,
    pub(super) alt_timeout: u8,
    pub(super) rate_limit: u32,
}

/// A piece of a registered region.
#[repr(C)]
pub(super) struct Sge {
    pub(super) addr: u64,
    pub(super) length: u32,
    pub(super) lkey: u32,
}

/// A request to send.
#[repr(C)]
pub(super) struct SendWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut SendWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
    pub(super) opcode: u32,
    pub(super) send_flags: u32,
    pub(super) imm_data: u32,
    /// What other operations and other kinds of queue pairs need.
    pub(super) others: [u64; 11],
}

/// A request to receive.
#[repr(C)]
pub(super) struct RecvWr {
    pub(super) wr_id: u64,
    pub(super) next: *mut RecvWr,
    pub(super) sg_list: *mut Sge,
    pub(super) num_sge: c_int,
}

/// How a request ended.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Wc {
    pub(super) wr_id: u64,
    pub(super) status: u32,
    pub(super) opcode: u32,
    pub(super) vendor_err: u32,
    pub(super) byte_len: u32,
    pub(super) imm_data: u32,
    pub(super) qp_num: u32,
    pub(super) src_qp: u32,
    pub(super) wc_flags: u32,
    pub(super) pkey_index: u16,
    pub(super) slid: u16,
    pub(super) sl: u8,
    pub(super) dlid_path_bits: u8,
}

/// A port. On Linux the library's symbol writes only the fields before `port_cap_flags2`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct PortAttr {
    pub(super) state: u32,
    pub(super) max_mtu: u32,
    pub(super) active_mtu: u32,
    pub(super) gid_tbl_len: c_int,
    pub(super) port_cap_flags: u32,
    pub(super) max_msg_sz: u32,
    pub(super) bad_pkey_cntr: u32,
    pub(super) qkey_viol_cntr: u32,
    pub(super) pkey_tbl_len: u16,
    pub(super) lid: u16,
    pub(super) sm_lid: u16,
    pub(super) lmc: u8,
    pub(super) max_vl_num: u8,
    pub(super) sm_sl: u8,
    pub(super) subnet_timeout: u8,
    pub(super) init_type_reply: u8,
    pub(super) active_width: u8,
    pub(super) active_speed: u8,
    pub(super) phys_state: u8,
    pub(super) link_layer: u8,
    pub(super) flags: u8,
    pub(super) port_cap_flags2: u16,
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn sizes_are_those_of_the_systems_headers() {
        let sizes = [size_of::<Gid>(), size_of::<GlobalRoute>(), size_of::<AhAttr>(), size_of::<QpCap>()];
        assert_eq!(sizes, [16, 24, 32, 20]);
        assert_eq!([size_of::<QpInitAttr>(), size_of::<QpAttr>()], [64, 144]);
        assert_eq!([size_of::<Sge>(), size_of::<SendWr>(), size_of::<RecvWr>()], [16, 128, 32]);
        assert_eq!([size_of::<Wc>(), size_of::<PortAttr>()], [48, 52]);
    }

    #[test]
    fn fields_that_the_library_reads_are_in_their_places() {
        assert_eq!([offset_of!(QpInitAttr, cap), offset_of!(QpInitAttr, qp_type)], [32, 52]);
        let attr = [
            offset_of!(QpAttr, path_mtu),
            offset_of!(QpAttr, rq_psn),
            offset_of!(QpAttr, sq_psn),
            offset_of!(QpAttr, dest_qp_num),
            offset_of!(QpAttr, access_flags),
            offset_of!(QpAttr, ah),
            offset_of!(QpAttr, alt_ah),
            offset_of!(QpAttr, pkey_index),
            offset_of!(QpAttr, port_num),
            offset_of!(QpAttr, alt_timeout),
            offset_of!(QpAttr, rate_limit),
        ];
        assert_eq!(attr, [8, 20, 24, 28, 32, 56, 88, 120, 129, 134, 136]);
        let route = [offset_of!(GlobalRoute, sgid_index), offset_of!(GlobalRoute, hop_limit)];
        assert_eq!(route, [20, 21]);
        let ah = [offset_of!(AhAttr, dlid), offset_of!(AhAttr, is_global), offset_of!(AhAttr, port_num)];
        assert_eq!(ah, [24, 29, 30]);
        let send = [offset_of!(SendWr, sg_list), offset_of!(SendWr, opcode), offset_of!(SendWr, send_flags)];
        assert_eq!(send, [16, 28, 32]);
        assert_eq!([offset_of!(RecvWr, sg_list), offset_of!(RecvWr, num_sge)], [16, 24]);
    }

    #[test]
    fn fields_that_the_library_writes_are_in_their_places() {
        let pointers = [offset_of!(Qp, number), offset_of!(Mr, lkey), offset_of!(Context, ops)];
        assert_eq!(pointers, [52, 36, 8]);
        assert_eq!([OP_POLL_CQ * 8, OP_POST_SEND * 8, OP_POST_RECV * 8], [88, 200, 208]);
        assert_eq!([offset_of!(Wc, status), offset_of!(Wc, byte_len)], [8, 20]);
        let port = [
            offset_of!(PortAttr, active_mtu),
            offset_of!(PortAttr, gid_tbl_len),
            offset_of!(PortAttr, lid),
            offset_of!(PortAttr, active_width),
            offset_of!(PortAttr, active_speed),
            offset_of!(PortAttr, link_layer),
            offset_of!(PortAttr, port_cap_flags2),
        ];
        assert_eq!(port, [8, 12, 34, 43, 44, 46, 48]);
    }
}
