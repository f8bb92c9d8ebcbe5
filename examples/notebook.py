# %% [markdown]
# # Recommendations in a notebook
#
# Cells in percent format: VS Code, PyCharm and Jupyter (with jupytext) open this file as a
# notebook, and `python` runs it. It uses the shop of the quickstart; write one first:
#
#     python examples/quickstart/make_shop.py shop --items 60 --users 120

# %%
from cammsr_cli.api import evaluate, load, prepare, train

# %% [markdown]
# Raw files to a data set. Here only texts are encoded; add "image" and "video" for the rest.

# %%
report = prepare("shop", "shop.h5", encoders=["text"], force=True)
print(f"{report.users} users, {report.items} items, {report.events} events")

# %%
outcome = train("shop.h5", "run", settings={"training.epochs": 5}, force=True)
print(f"best in epoch {outcome.best_epoch} of {outcome.epochs}")

# %% [markdown]
# How good is it? All items are ranked for every user.

# %%
evaluation = evaluate("run")
for name in ("NDCG@10", "Recall@10"):
    one = evaluation.model[name]
    print(f"{name}: {one.mean:.3f}, 95 % interval {one.low:.3f} to {one.high:.3f}")

# %% [markdown]
# `load` reads the run once; then ask as often as you like. The answer is a polars table.

# %%
model = load("run")
model.recommend(["user-0001", "user-0002"], k=3)

# %% [markdown]
# A visitor who is not in the data, and why these items.

# %%
(visitor,) = model.explain(histories={"visitor": ["item-0001", "item-0007"]}, k=3)
for item in visitor.items:
    because = ", ".join(past.title for past in item.because)
    print(f"{item.rank}. {item.title}, because of: {because}")

# %% [markdown]
# Vectors, for an index of your own: inner products are scores.

# %%
scores = model.user_vectors(["user-0001"]) @ model.item_vectors().T
print(scores.shape)
