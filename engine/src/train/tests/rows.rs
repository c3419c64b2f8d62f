use super::super::rows::{Check, Ready, ReadyRow};
use super::super::{KtoRow, LongRows, TrainError, TrainOptions, TrainRow};
use super::{model, options, row, supervised, train};

fn check(rows: &[TrainRow], options: &TrainOptions) -> Result<Ready<ReadyRow>, TrainError> {
    Check { options, vocabulary: 300 }.rows(rows)
}

fn error(rows: &[TrainRow]) -> TrainError {
    check(rows, &options()).unwrap_err()
}

/// A change to valid options.
type Edit = fn(&mut TrainOptions);

/// Protects: a row that would teach nothing, or nonsense, is refused by number.
#[test]
fn rows_that_cannot_be_learnt_are_refused() {
    let good = || row(8, 3, 1);
    let change = |edit: fn(&mut TrainRow)| {
        let mut bad = good();
        edit(&mut bad);
        error(&[good(), bad])
    };
    let empty = change(|row| row.mask.fill(false));
    assert!(matches!(empty, TrainError::EmptyMask { row: 1, tokens: 8 }));
    let full = change(|row| row.mask.fill(true));
    assert!(matches!(full, TrainError::FirstTokenMasked { row: 1, targets: 8, .. }));
    let short = change(|row| row.mask.truncate(5));
    assert!(matches!(short, TrainError::MaskLength { tokens: 8, mask: 5, .. }));
    let unknown = change(|row| row.ids[4] = 300);
    assert!(matches!(unknown, TrainError::UnknownToken { position: 4, id: 300, .. }));
    for weight in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let bad = TrainRow { weight, ..good() };
        assert!(matches!(error(&[bad]), TrainError::Weight { row: 0, .. }));
    }
    let none = TrainRow { ids: vec![], mask: vec![], weight: 1.0 };
    assert!(matches!(error(&[none]), TrainError::EmptyMask { tokens: 0, .. }));
    assert!(matches!(error(&[]), TrainError::NoRows { given: 0, .. }));
    let long = error(&[row(65, 1, 1)]);
    assert!(long.to_string().contains("1 of them left out as longer than max_length 64"), "{long}");
}

/// Protects: a reply that is missing, or has nothing before it, is refused by its row's number.
#[test]
fn replies_need_a_prompt_and_a_token() {
    let kto = |prompt: &[u32], completion: &[u32]| {
        let row = KtoRow { prompt: prompt.to_vec(), completion: completion.to_vec(), desirable: true, weight: 1.0 };
        Check { options: &options(), vocabulary: 300 }.kto(&[row])
    };
    assert!(matches!(kto(&[3, 4], &[]), Err(TrainError::EmptyMask { row: 0, tokens: 2 })));
    assert!(matches!(kto(&[], &[3]), Err(TrainError::FirstTokenMasked { row: 0, .. })));
    let ready = kto(&[3, 4], &[5, 6]).unwrap();
    assert_eq!((ready.rows[0].row.before_targets(), &*ready.rows[0].row.targets), (&[3, 4][..], &[2, 3][..]));
}

/// Protects: long rows are dropped or cut as configured, and both are counted.
#[test]
fn long_rows_are_dropped_or_cut_and_counted() {
    let late = row(80, 10, 1);
    let mut early = row(80, 10, 2);
    early.mask[30..33].fill(true);
    let rows = [row(64, 5, 3), early, late];
    let dropped = check(&rows, &options()).unwrap();
    assert_eq!((dropped.rows.len(), dropped.dropped, dropped.cut), (1, 2, 0));
    let options = TrainOptions { long_rows: LongRows::Cut, ..options() };
    let cut = check(&rows, &options).unwrap();
    assert_eq!((cut.rows.len(), cut.dropped, cut.cut), (2, 1, 1));
    assert_eq!(cut.rows[1].targets, [30, 31, 32]);
    assert_eq!((cut.rows[1].ids.len(), cut.rows[1].tokens), (33, 64));
}

/// Protects: long replies are dropped or cut as configured; one whose prompt alone is too long can only be dropped.
#[test]
fn long_replies_are_dropped_or_cut_and_counted() {
    let reply = |prompt: usize, completion: usize| KtoRow {
        prompt: row(prompt, 1, 1).ids,
        completion: row(completion, 1, 2).ids,
        desirable: true,
        weight: 1.0,
    };
    let rows = [reply(60, 4), reply(60, 5), reply(64, 1)];
    let check = |long_rows| {
        let options = TrainOptions { long_rows, ..options() };
        Check { options: &options, vocabulary: 300 }.kto(&rows).unwrap()
    };
    let (dropped, cut) = (check(LongRows::Drop), check(LongRows::Cut));
    assert_eq!((dropped.rows.len(), dropped.dropped, dropped.cut), (1, 2, 0));
    assert_eq!((cut.rows.len(), cut.dropped, cut.cut), (2, 1, 1));
    assert_eq!(&*cut.rows[1].row.targets, [60, 61, 62, 63]);
}

/// Protects: a setting out of its bounds is refused before anything is computed or written.
#[test]
fn settings_out_of_bounds_are_refused() {
    let model = model();
    let output = tempfile::tempdir().unwrap();
    let folder = output.path().join("adapter");
    let edits: [(&str, Edit); 9] = [
        ("learning_rate", |options| options.learning_rate = 0.0),
        ("weight_decay", |options| options.weight_decay = -0.1),
        ("max_grad_norm", |options| options.max_grad_norm = f64::NAN),
        ("warmup", |options| options.warmup = 1.0),
        ("batch_size", |options| options.batch_size = 0),
        ("epochs", |options| options.epochs = 0),
        ("max_length", |options| options.max_length = 257),
        ("rank", |options| options.lora.rank = 0),
        ("dropout", |options| options.lora.dropout = 1.0),
    ];
    for (setting, edit) in edits {
        let mut options = options();
        edit(&mut options);
        let result = train(&model, None, &supervised(&[row(8, 3, 1)]), &options, &folder);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(setting), "{setting}: {message}");
        assert!(!folder.exists());
    }
}
