//! `lattice logs`: what guests wrote. Nodes keep the last lines of each replica; new ones are published as they come.

use crate::{Context, error::Exit, output::Paint};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use lattice::{
    ctl::{LogLevel, LogLine, LogStream, StatusReply},
    id::WorkloadName,
    limits::one_line,
    subject::{self, Topic, WorkloadVerb},
};

/// Show what a workload's components wrote to stdout and stderr
///
/// `hello.2#3` is the third instance of replica 2 since that was started.
#[derive(Debug, clap::Args)]
#[command(before_help = "Examples:
  lattice logs hello
  lattice logs hello --follow
  lattice logs hello --replica 2 -o json")]
pub struct Args {
    /// Name of the workload
    workload: WorkloadName,
    /// Go on with new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Only this replica
    #[arg(long, value_name = "N")]
    replica: Option<u32>,
    /// Only the last lines
    #[arg(long, value_name = "N")]
    last: Option<usize>,
}

pub async fn run(args: Args, context: &Context) -> anyhow::Result<Exit> {
    let client = context.client().await?;
    let wanted = |line: &LogLine| args.replica.is_none_or(|replica| replica == line.replica);
    // Listen before asking, so that no line falls between.
    let mut live = match args.follow {
        true => Some(client.bus().subscribe(subject::logs_of(&client.lattice, &args.workload), None).await?),
        false => None,
    };
    let topic = Topic::Workload(WorkloadVerb::Logs, args.workload.clone());
    let kept: Vec<Vec<LogLine>> = client.scatter(topic).await?;
    let mut kept: Vec<LogLine> = kept.into_iter().flatten().filter(wanted).collect();
    kept.sort_by(|a, b| (&a.time, a.replica).cmp(&(&b.time, b.replica)));
    let first = args.last.map_or(0, |last| kept.len().saturating_sub(last));
    for line in kept.iter().skip(first) {
        show(line, context)?;
    }
    if kept.is_empty() {
        // No lines and no such workload look the same from the nodes' answers.
        let topic = Topic::Workload(WorkloadVerb::Status, args.workload.clone());
        let _: StatusReply = client.ask(topic).await?;
    }
    if kept.is_empty() && !args.follow {
        context.out.note(format!("{} wrote nothing that is kept", args.workload));
    }
    let newest = kept.last().map(|line| line.time.clone()).unwrap_or_default();
    while let Some(message) = match &mut live {
        Some(live) => live.next().await,
        None => None,
    } {
        let line: LogLine = match serde_json::from_slice(&message.payload).context("a line that can't be read") {
            Ok(line) => line,
            Err(error) => {
                context.out.note(format!("{error:#}"));
                continue;
            }
        };
        // Lines of the moment when both were listening came twice.
        if wanted(&line) && (line.time > newest || !kept.contains(&line)) {
            show(&line, context)?;
        }
    }
    Ok(Exit::Ok)
}

fn show(line: &LogLine, context: &Context) -> anyhow::Result<()> {
    context.out.show_item(line, |paint| render(line, paint), || line.line.clone())
}

fn render(line: &LogLine, paint: Paint) -> String {
    let replica = usize::try_from(line.replica).unwrap_or_default();
    let instance = line.instance.map_or_else(String::new, |instance| format!("#{instance}"));
    let who = paint.nth(replica, format!("{}.{}{instance} {}", line.workload, line.replica, line.node));
    // What a guest writes must not steer the terminal.
    let text: String = line.line.chars().filter(|c| !c.is_control() || *c == '\t').collect();
    let text = match (line.level, line.stream) {
        (Some(level), _) => {
            let context = line.context.as_ref().map(|context| format!(" {}", one_line(context, context.len())));
            let text = format!("{}{}: {text}", level.as_str(), context.unwrap_or_default());
            if level >= LogLevel::Warn { paint.warn(text) } else { text }
        }
        (None, LogStream::Stdout) => text,
        (None, LogStream::Stderr) => paint.warn(text),
    };
    format!("{} {who}  {text}", paint.dim(&line.time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lattice::id::NodeId;

    #[test]
    fn a_line_cannot_steer_the_terminal() {
        let line = LogLine {
            workload: WorkloadName::new("hello").unwrap(),
            replica: 2,
            node: NodeId::new("n1").unwrap(),
            instance: Some(3),
            stream: LogStream::Stderr,
            time: "1970-01-01T00:00:01.000Z".into(),
            trace_id: None,
            span_id: None,
            level: None,
            context: None,
            line: "a\tb\x1b[2J\u{7}\u{9b}c".into(),
        };
        assert_eq!(render(&line, Paint::off()), "1970-01-01T00:00:01.000Z hello.2#3 n1  a\tb[2Jc");
        let logged =
            LogLine { level: Some(LogLevel::Warn), context: Some("db\x1b".into()), line: "slow".into(), ..line };
        assert_eq!(render(&logged, Paint::off()), "1970-01-01T00:00:01.000Z hello.2#3 n1  warn db : slow");
    }
}
