"""The README in tracefs: what its files are for. Tools look in it for what a kernel can do, so it names only what is
there.

Linux: readme_msg[] of kernel/trace/trace.c (5.3). Same: purpose, and the words by which tools find features.
    Differs: the text.
"""
README = """\
tracing mini-HOWTO:

# echo 0 > tracing_on : stop recording
# echo 1 > tracing_on : record again

 Important files:
  trace\t\t\t- The records in the buffer, as text. Writing empties the buffer
  trace_pipe\t\t- The same, but what was read is gone. Waits for more
  current_tracer\t- The tracer that is at work
  available_tracers\t- The tracers that there are
  error_log\t- What was wrong with the last commands
  buffer_size_kb\t- Size of the buffer of each CPU
  buffer_total_size_kb  - Size of all of them

  trace_clock\t\t- The clock that stamps records
       local:   Of each CPU
      global:   The same for all CPUs
     counter:   Counts records
      uptime:   Jiffies since boot
        perf:   As perf events
     x86-tsc:   TSC cycles

  timestamp_mode\t-view the mode used to timestamp events
       delta:   Difference from the record before
    absolute:   The whole stamp

  trace_marker\t\t- Text written here becomes a record
  trace_marker_raw\t\t- Bytes written here become a record
  tracing_cpumask\t- The CPUs that record
  instances\t\t- mkdir instances/foo makes another buffer, rmdir removes it
  trace_options\t\t- Options; "no" in front switches one off
  saved_cmdlines_size\t- How many names of tasks are remembered

  snapshot\t\t- As trace, of the second buffer
  dynamic_events\t- The three kinds of definitions in one file
  kprobe_events\t\t- Definitions of events at kernel functions:
\t  p[:[<group>/]<event>] <place> [<args>]
\t  r[maxactive][:[<group>/]<event>] <place> [<args>]
\t  -:[<group>/]<event>
\t    place: <symbol>|<address>
\t     args: <name>=fetcharg[:type]
\t fetcharg: %<register>, @<address>, @<symbol>[+|-<offset>],
\t           $stack<index>, $retval, $comm, $arg<N>, <argument>[-><field>],
\t           +|-[u]<offset>(<fetcharg>)
\t     type: s8/16/32/64, u8/16/32/64, x8/16/32/64, string, symbol,
\t           b<bit-width>@<bit-offset>/<container-size>, ustring,
\t           <type>[<array-size>]
  uprobe_events\t\t- Definitions of events at places of programs:
\t  place: <path>:<offset>
\t fetcharg: %<register>, @<address>, @+<file offset>, $stack, $stack<index>, $retval, $comm, +|-[u]<offset>(<fetcharg>)
  synthetic_events\t- Definitions of events that histograms raise:
\t  <event> <type> <field>[; <type> <field>...], !<event>
  events/\t\t- A directory for each system of events:
      enable\t\t- 0 or 1 switches all events
  events/<system>/\t- A directory for each event:
      enable\t\t- 0 or 1 switches the events of the system
      filter\t\t- Which of its records are kept
  events/<system>/<event>/\t- The files of an event:
      enable\t\t- 0 or 1
      filter\t\t- Which of its records are kept
      trigger\t\t- What happens when it occurs
\t  traceon, traceoff, snapshot, stacktrace [:<count>] [if <filter>]
\t  enable_event, disable_event, enable_hist, disable_hist :<system>:<event> [:<count>] [if <filter>]
\t  hist:keys=<field1[,field2,...]>
\t    [:values=<field1[,field2,...]>]
\t    [:sort=<field1[,field2,...]>]
\t    [:size=#entries]
\t    [:<var>=<field|common_timestamp[.usecs]|$var|sum>[,...]][:name=<name>][:clock=<clock>]
\t    [:onmatch(<system>.<event>).<action>][:onmax($var).<action>][:onchange($var).<action>]
\t    [:pause][:continue][:clear]
\t    actions: <synthetic event>(<param>[,...]), trace(<synthetic event>,<param>[,...]), save(<field>[,...]), snapshot()
\t    [if <filter>]
\t    .hex, .sym, .sym-offset, .execname, .syscall, .log2 behind a field: how it is shown
      hist\t\t- What its hist triggers have counted
"""
