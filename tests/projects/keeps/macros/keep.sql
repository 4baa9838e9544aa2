{% macro fill() %}
    {% if execute %}
        {% set answer = run_query("select cast(1.50 as decimal(9, 2)) as amount, 'x' as label") %}
        {% set paris = modules.pytz.timezone('Europe/Paris') %}
        {% set noon = modules.datetime.datetime(2025, 7, 1, 12, 0) %}
        {% set names = [] %}
        {% do graph.update({'kept': {'names': names, 'same_names': names, 'by_model': {}, 'counter': namespace(n=0)}}) %}
        {% do graph.setdefault('kept', {}).update({
            'date': modules.datetime.date(2025, 1, 31),
            'moment': modules.datetime.datetime(2025, 1, 31, 12, 30, tzinfo=modules.pytz.utc),
            'in_paris': paris.localize(noon),
            'span': modules.datetime.timedelta(days=1, seconds=5),
            'decimal': answer.rows[0][0],
            'set': set(['only']),
            'tuple': (1, (2, 'x'), [3]),
            'by_pair': {(1, 2): 'pair', 3: 'three', none: 'nothing'},
            'huge': 2 ** 70,
            'relation': api.Relation.create(schema='somewhere', identifier='thing'),
            'column': api.Column.create('id', 'integer'),
            'answer': answer,
            'macro': shout,
        }) %}
        {% do graph['kept'].update({'itself': graph['kept']}) %}
        {% do selected_resources.append('model.keeps.made_up') %}
        {% do dbt_metadata_envs.update({'filled': 'yes'}) %}
    {% endif %}
{% endmacro %}

{% macro shout(text) %}{{ return(text | upper ~ '!' ~ model.name) }}{% endmacro %}

{% macro tell() %}
    {% if execute %}
        {% set kept = graph['kept'] %}
        {% for key in kept if key not in ['itself', 'counter', 'answer', 'macro', 'names', 'same_names', 'by_model'] %}
            {% do log('KEPT ' ~ key ~ ' ' ~ kept[key], info=true) %}
        {% endfor %}
        {% do log('KEPT day ' ~ (kept.date + kept.span), info=true) %}
        {% do log('KEPT zone ' ~ kept.in_paris.strftime('%Z %z'), info=true) %}
        {% do log('KEPT twice ' ~ kept.decimal * 2, info=true) %}
        {% do log('KEPT pair ' ~ kept.by_pair[(1, 2)], info=true) %}
        {% do log('KEPT relation ' ~ kept.relation.include(database=false).render(), info=true) %}
        {% do log('KEPT answer ' ~ kept.answer.columns['label'].values() | list ~ kept.answer.rows[0][0], info=true) %}
        {% do log('KEPT macro ' ~ kept.macro('hello'), info=true) %}
        {% do log('KEPT itself ' ~ kept.itself.itself.date, info=true) %}
        {% do log('KEPT names ' ~ kept.names ~ kept.same_names, info=true) %}
        {% do log('KEPT counter ' ~ kept.counter.n, info=true) %}
        {% do log('KEPT by model ' ~ kept.by_model | dictsort, info=true) %}
        {% do log('KEPT things ' ~ var('things'), info=true) %}
        {% do log('KEPT selected ' ~ selected_resources | sort, info=true) %}
        {% do log('KEPT environment ' ~ dbt_metadata_envs, info=true) %}
        {% for result in results | sort(attribute='unique_id') if result.node.resource_type == 'model' %}
            {% do log('KEPT config ' ~ result.node.name ~ ' ' ~ result.node.config.meta ~ result.node.config.get('notes'), info=true) %}
        {% endfor %}
    {% endif %}
{% endmacro %}

{% macro note() %}
    {% if execute %}
        {% set kept = graph.get('kept') %}
        {% do kept['names'].append(model.name) %}
        {% do kept['by_model'].setdefault(model.name, {'seen': []}) %}
        {% do kept['by_model'][model.name]['seen'].extend(kept['names'] | map('upper')) %}
        {% for name in [model.name, model.name | upper] %}
            {% do kept['by_model'][model.name].update(last=name) %}
        {% endfor %}
        {% do kept['set'].add(model.name) if model.name == 'second' %}
        {% set counter = kept.counter %}
        {% set counter.n = counter.n + 1 %}
        {% do var('things').append(model.name) %}
        {% do config.get('meta').update({'noted': kept['names'] | length}) %}
    {% endif %}
{% endmacro %}
