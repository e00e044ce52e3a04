"""Grading: programs that nobody trusts, called in a process apart and judged where they cannot reach.

grade       what is called; run: one run of it
repeated    the same again with other contents; families: kinds of inputs in words
untrusted   the candidate as the judge sees it; called: its process; lent: its arguments; loading: whose program it is
verdict     what comes of it

**What is prevented.**  Inputs are drawn from a seed of the operating system, which the candidate does not learn.  All
calls on which the verdict rests are made before anything that is due is computed, in whatever process.  The candidate's
process has no name of a case or a rule.  What comes back are bytes and JSON, of bounded size; nothing of it is run or
unpickled.  What is done to arguments is seen from outside.  Nothing in the candidate's process judges, so nothing that
is replaced there matters.  What it prints is told in `printed`, and is never part of the document.  Processes that it
starts are ended, those that have left its session too (on Linux), and time, memory and the number of processes are
limited.

**What is not.**  It is no sandbox: it runs as the user who grades.  It can read and write that user's files, among them
an installation of manual_bp that he may write to, use the network, and end or stop the judge: there is no verdict then.
On Linux no process but root's can read or write the judge's memory while it grades; elsewhere it may.  As root it can
raise its own limit of memory, and then that of all processes together is what holds.  If it ends its keeper, a process
that has left its group is not found.  It may be right only while it is graded.  It may compute what is due by
torch.autograd, or by the reference's own file: that is right, and noted where its process does not hide it.

Whoever needs more runs the whole command as another user in a container without network.  `python -m manual_bp` looks
for modules in the current folder first, and so must not be started in one that holds programs to be graded;
`manual-bp` does not.
"""
