use super::*;

const HUGE: u64 = 2 << 20;
const OWN: PageOwner = PageOwner::Process(FIRST);

fn pages(from: u64, to: u64) -> PageRange {
    PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE)
}

#[test]
fn every_page_is_cut_once_in_order_and_no_frame_is_too_long() {
    for (range, size, most) in [
        (pages(3, 300), PAGE_SIZE, PAGES_MAX as u64),
        (pages(64, 65), PAGE_SIZE, PAGES_MAX as u64),
        (pages(512, 2048), HUGE, HUGE),
        (pages(700, 1100), HUGE, HUGE),
    ] {
        let pieces: Vec<PageRange> = cut(range, size).collect();
        assert!(pieces.iter().all(|p| !p.is_empty() && p.len() <= most), "{pieces:?}");
        assert!(pieces.windows(2).all(|w| w[0].end == w[1].start), "{pieces:?}");
        assert_eq!((pieces[0].start, pieces[pieces.len() - 1].end), (range.start, range.end));
        if size == HUGE {
            assert!(pieces[1..].iter().all(|p| p.start.is_multiple_of(HUGE)), "{pieces:?}");
        }
    }
}

#[test]
fn mappings_of_different_pages_are_told_apart() {
    let huge = [(pages(512, 1024), HUGE), (pages(2048, 2560), HUGE)];
    assert_eq!(
        by_page_size(pages(500, 2100), &huge),
        [
            (pages(500, 512), PAGE_SIZE),
            (pages(512, 1024), HUGE),
            (pages(1024, 2048), PAGE_SIZE),
            (pages(2048, 2100), HUGE)
        ]
    );
    assert_eq!(by_page_size(pages(1, 2), &huge), [(pages(1, 2), PAGE_SIZE)]);
}

fn own() -> Memory {
    let pid = std::process::id() as i32;
    let layout = memory_map::survey(pid).unwrap().layout;
    Memory::of((pid, FIRST), &layout, Vec::new(), true).unwrap()
}

fn piece(range: PageRange, whole: bool) -> Piece {
    Piece { of: LazyRange { owner: OWN, range }, whole }
}

#[test]
fn zeroes_are_not_content_except_within_a_huge_page() {
    let memory = own();
    let mut data = vec![0; 8 * PAGE_SIZE as usize];
    data[3 * PAGE_SIZE as usize] = 1;
    let data = Bytes::from(data);
    let zero = |range| Answer::Zero(LazyRange { owner: OWN, range });
    let page = |from: u64, to: u64| {
        let content = data.slice(((from - 10) * PAGE_SIZE) as usize..((to - 10) * PAGE_SIZE) as usize);
        let head = PagesHead { owner: OWN, start: from * PAGE_SIZE, digest: xxh3_128(&content) };
        Answer::Pages(head, content)
    };
    let range = pages(10, 18);
    assert_eq!(
        memory.sorted(&piece(range, false), data.clone()),
        [zero(pages(10, 13)), page(13, 14), zero(pages(14, 18))]
    );
    assert_eq!(memory.sorted(&piece(range, true), data.clone()), [page(10, 18)]);
    let nothing = Bytes::from(vec![0; 8 * PAGE_SIZE as usize]);
    assert_eq!(memory.sorted(&piece(range, true), nothing), [zero(range)]);
    let full = Bytes::from(vec![7; HUGE as usize]);
    let answers = memory.sorted(&piece(pages(0, 512), true), full);
    assert_eq!(answers.len(), HUGE as usize / PAGES_MAX);
}

#[test]
fn only_memory_that_comes_late_is_shown() {
    let memory = own();
    let code = only_memory_that_comes_late_is_shown as fn() as usize as u64 / PAGE_SIZE;
    let heap = memory.private.iter().next().unwrap();
    let ask = |range| memory.pieces(LazyRange { owner: OWN, range }).map(Iterator::count);
    assert!(ask(heap).unwrap() > 0);
    let odd = PageRange::new(heap.start, heap.start + 7);
    let beyond = PageRange::new(heap.start, heap.end + PAGE_SIZE * (1 << 40));
    for foreign in [pages(code, code + 1), pages(0, 1), odd, beyond, pages(5, 5)] {
        assert!(matches!(ask(foreign), Err(Unanswerable::Foreign(_))), "{foreign:?}");
    }
    let object = PageOwner::Object(ObjectId { dev: 1, ino: 1 });
    assert!(memory.pieces(LazyRange { owner: object, range: pages(0, 1) }).is_err());
    let other = PageOwner::Process(ProcessIndex(1));
    assert!(memory.pieces(LazyRange { owner: other, range: heap }).is_err());
}
